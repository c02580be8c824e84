"""``--data DIR`` of detectors: a user's own images with annotations in COCO's layout."""

from mmengine.config import Config

from mmdet_seg.backbones.variants import get_arch
from mmdet_seg.datasets.coco_annotations import find_coco

_TYPE = 'mmdet_seg.datasets.coco_folder.CocoFolder'
# As the small recipe's crops of 256 pixels are made; any size may come.
_TEST_SIZE = dict(scale=(720, 288), keep_ratio=True)


def adopt_folder(cfg: Config, overlay: Config, folder: str) -> Config:
    """Put a folder into the data config of a recipe: the built-in scenes' or COCO's.

    Args:
        cfg: The recipe, which says whether masks are needed.
        overlay: Its own form of the data; changed in place.
        folder: With images and annotations.

    Returns:
        The overlay.

    Raises:
        FileNotFoundError: See :func:`mmdet_seg.datasets.coco_annotations.find_coco`.
        ValueError: Likewise, or the model learns from masks that the annotations do not have.
    """
    found = find_coco(folder)
    masks = 'mask_head' in (cfg.model.get('roi_head') or {})
    for source in found.values():
        without = source.annotations - source.masks
        if masks and without:
            raise ValueError(
                f'{source.file}: {without} of {source.annotations} annotations have no mask '
                '(segmentation), which this config learns from; configs/dino_internvit.py needs '
                'boxes alone.'
            )
    for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        # Changed in place: types stay names, which the run's copy of the config can hold.
        dataset = overlay[f'{split}_dataloader'].dataset
        for key in ('ann_file', 'data_prefix'):
            dataset.pop(key, None)
        dataset.update(type=_TYPE, data_root=folder, split=part)
        for step in dataset.pipeline:
            _own_step(step, masks)
    overlay.num_classes = len(found['train'].classes)
    overlay.pop('semantic_classes', None)
    return overlay


def base_of(cfg: Config, arch: str | None) -> str:
    """Which data config is a folder's: COCO's with published weights, else the scenes'.

    Raises:
        ValueError: The recipe learns from what no such folder holds.
    """
    if 'panoptic_head' in cfg.model:
        raise ValueError(
            '--data DIR has no truth for panoptic segments, which this config predicts; it takes '
            'coco, scenes.'
        )
    name = 'coco' if arch is not None and get_arch(arch).hub_id else 'scenes'
    return (cfg.get('data_variants') or {}).get(name, name)


def _own_step(step: dict, masks: bool) -> None:
    for key in ('with_seg', 'reduce_zero_label'):
        step.pop(key, None)
    if 'with_mask' in step:
        step['with_mask'] = masks
    if step.pop('scale_factor', None):  # of the scenes' one size
        step.update(_TEST_SIZE)
