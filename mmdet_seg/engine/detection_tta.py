"""Several scales and flips of every test image of a detector, merged by NMS, masks included."""

from copy import deepcopy

import torch
from mmcv.ops import batched_nms
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_seg.mmdet_door import DetTTAModel
from mmdet_seg.registry import MODELS

RATIOS = (0.8, 1.0, 1.25)
_META = (
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction',
)  # fmt: skip


@MODELS.register_module()
class DetectionTTA(DetTTAModel):
    """mmdet's ``DetTTAModel`` for masks too, which it refuses.

    NMS over the boxes of all views keeps some of them as they are, so each keeps its own mask,
    turned back where its view was mirrored.
    """

    def _merge_single_sample(self, data_samples: list) -> object:
        merged = data_samples[0]
        found = [sample.pred_instances for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes(
            [f.bboxes for f in found],
            [f.scores for f in found],
            [sample.metainfo for sample in data_samples],
        )
        labels = torch.cat([f.labels for f in found])
        if not len(labels):
            return merged
        kept, order = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        order = order[: self.tta_cfg.max_per_img]
        instances = InstanceData(
            bboxes=kept[: len(order), :4], scores=kept[: len(order), 4], labels=labels[order]
        )
        if 'masks' in found[0]:
            masks = [
                _as_seen(f.masks, s.metainfo) for f, s in zip(found, data_samples, strict=True)
            ]
            instances.masks = torch.cat(masks)[order]
        merged.pred_instances = instances
        return merged


def _as_seen(masks: torch.Tensor, meta: dict) -> torch.Tensor:
    """Masks (K, H, W) of a view as they lie on the image itself."""
    if not meta.get('flip'):
        return masks
    axes = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}
    return masks.flip(axes[meta['flip_direction']])


def add_detection_tta(cfg: Config, ratios: tuple[float, ...] = RATIOS, flip: bool = True) -> None:
    """Change the test of a detector's config to several scales, each as it is and mirrored.

    Args:
        cfg: A complete config; its test pipeline and model are replaced.
        ratios: Factors of the test scale.
        flip: Add the mirror image of every scale.

    Raises:
        ValueError: A test pipeline that does not load, resize and pack, or ratios that are not
            positive.
    """
    if not ratios or min(ratios) <= 0:
        raise ValueError(f'ratios={list(ratios)} are not positive numbers.')
    dataset = cfg.test_dataloader.dataset
    steps = [deepcopy(step) for step in dataset.pipeline if _name(step) != 'LoadAnnotations']
    names = [_name(step) for step in steps]
    if names[:1] + names[-1:] != ['LoadImageFromFile', 'PackDetInputs'] or 'Resize' not in names:
        raise ValueError(
            'Test-time augmentation needs a test pipeline of LoadImageFromFile, Resize and '
            f'PackDetInputs; this one is {", ".join(names)}.'
        )
    resize = steps[names.index('Resize')]
    rest = [s for s, n in zip(steps[1:-1], names[1:-1], strict=True) if n != 'Resize']
    flips = [dict(type='mmdet.RandomFlip', prob=float(p)) for p in ((0, 1) if flip else (0,))]
    dataset.pipeline = [
        steps[0],
        dict(
            type='TestTimeAug',
            transforms=[
                [_scaled(resize, ratio) for ratio in ratios],
                flips,
                *([step] for step in rest),
                [steps[-1] | {'meta_keys': _META}],
            ],
        ),
    ]
    nms = dict(type='nms', iou_threshold=0.5)
    per_image = (cfg.model.get('test_cfg') or {}).get('rcnn', cfg.model.get('test_cfg') or {})
    most = per_image.get('max_per_img', 100)
    cfg.model = dict(
        type='mmdet_seg.DetectionTTA', module=cfg.model, tta_cfg=dict(nms=nms, max_per_img=most)
    )


def _scaled(resize: dict, ratio: float) -> dict:
    """A resizing step with its target times ``ratio``."""
    if resize.get('scale') is None:
        return resize | {'scale_factor': resize.get('scale_factor', 1.0) * ratio}
    scale = resize['scale']
    sides = (scale, scale) if isinstance(scale, int) else scale
    return resize | {'scale': tuple(round(side * ratio) for side in sides)}


def _name(step: dict) -> str:
    kind = step['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__
