"""Built-in scenes as a detection and instance segmentation data set; needs mmdet."""

from pathlib import Path

from mmdet_seg.datasets.coco_instances import CocoInstances
from mmdet_seg.datasets.scene_classes import CLASSES, PALETTE, THING_CLASSES
from mmdet_seg.datasets.scenes_dataset import find_scenes
from mmdet_seg.datasets.scenes_files import SPLITS


class SceneDetDataset(CocoInstances):
    """Built-in scenes in COCO's layout: boxes and masks of :data:`THING_CLASSES`.

    Args:
        data_root: Where sets of scenes are kept, or one set's folder.
        split: ``training`` or ``validation``.
        prepare: Write the scenes where they are missing.
        num_train: Training images of the set.
        num_val: Validation images of the set.
        seed: Seed of the set.
        size: Typical height and width in pixels.
        **kwargs: See :class:`mmdet.datasets.CocoDataset`.

    Raises:
        ValueError: ``split`` is not one of the two.
        FileNotFoundError: The scenes are missing and ``prepare`` is off.
    """

    METAINFO = dict(
        classes=THING_CLASSES,
        palette=[tuple(PALETTE[CLASSES.index(name)]) for name in THING_CLASSES],
    )

    def __init__(
        self,
        data_root: str | Path = 'data/scenes',
        split: str = 'training',
        prepare: bool = True,
        num_train: int = 600,
        num_val: int = 100,
        seed: int = 0,
        size: tuple[int, int] = (256, 320),
        **kwargs: object,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split='{split}' is not one of: {', '.join(SPLITS)}.")
        folder = find_scenes(data_root, prepare, num_train, num_val, seed, size)
        kwargs.setdefault('ann_file', f'annotations/instances_{SPLITS[split]}.json')
        kwargs.setdefault('data_prefix', dict(img=f'images/{split}', seg=f'annotations/{split}'))
        super().__init__(data_root=str(folder), **kwargs)
