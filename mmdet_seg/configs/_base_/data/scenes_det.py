"""Boxes and masks of the built-in scenes' things, written to ``data/scenes`` on first use."""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets.transforms import (
    FilterAnnotations,
    LoadAnnotations,
    PackDetInputs,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmdet_seg.datasets.scenes_det_dataset import SceneDetDataset
from mmdet_seg.engine.detection_metric import PerClassAP

with read_base():
    from ..schedules.scenes_det import *

num_classes = 5
semantic_classes = 16
object_scale = 4  # of the stride; most objects are 30 to 75 pixels
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(
        type=LoadAnnotations,
        with_bbox=True,
        with_mask=True,
        with_seg=True,
        reduce_zero_label=True,
    ),
    dict(
        type=RandomResize,
        scale=(720, 288),
        ratio_range=(0.9, 1.2),
        resize_type=Resize,
        keep_ratio=True,
    ),
    dict(type=RandomCrop, crop_size=(256, 256), recompute_bbox=True, allow_negative_crop=False),
    dict(type=FilterAnnotations, min_gt_bbox_wh=(2, 2)),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale_factor=1.125),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
    dict(
        type=PackDetInputs,
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(type=SceneDetDataset, data_root='data/scenes')
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        **dataset,
        split='training',
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(**dataset, split='validation', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=PerClassAP, metric=['bbox', 'segm'], figures=['AP', 'AP50', 'AP75'])
test_evaluator = val_evaluator
