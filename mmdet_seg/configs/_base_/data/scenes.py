"""Built-in scenes, written to ``data/scenes`` on first use (seconds), with a short schedule."""

from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets.transforms import (
    LoadAnnotations,
    PackSegInputs,
    RandomCrop,
    Resize,
)

from mmdet_seg.datasets import SceneSegDataset
from mmdet_seg.engine import PerClassIoU

with read_base():
    from ..schedules.scenes import *

num_classes = 16
crop_size = (224, 224)
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, reduce_zero_label=True),
    dict(
        type=RandomResize,
        scale=(640, 256),
        ratio_range=(0.9, 1.1),
        resize_type=Resize,
        keep_ratio=True,
    ),
    dict(type=RandomCrop, crop_size=crop_size, cat_max_ratio=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackSegInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, reduce_zero_label=True),
    dict(type=PackSegInputs),
]
dataset = dict(type=SceneSegDataset, data_root='data/scenes')
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(**dataset, split='training', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,  # images differ in size
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(**dataset, split='validation', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=PerClassIoU, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
