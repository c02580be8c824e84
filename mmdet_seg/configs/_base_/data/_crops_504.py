"""Crop 504 and sliding windows 504 / 322 with the published schedule, for any data set.

Source: OpenGVLab/InternVL ``segmentation`` (``ade20k_504x504``). A data set's own file adds
``dataset``, ``num_classes`` and, where label 0 is unlabelled, ``reduce_zero_label``.
"""

from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets.transforms import (
    LoadAnnotations,
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    Resize,
    ResizeShortestEdge,
    ResizeToMultiple,
)

from mmdet_seg.engine import PerClassIoU

with read_base():
    from ..schedules.published_80k import *

crop_size = (504, 504)
slide_stride = (322, 322)
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(
        type=RandomResize,
        scale=(2016, 504),
        ratio_range=(0.5, 2.0),
        resize_type=Resize,
        keep_ratio=True,
    ),
    dict(type=RandomCrop, crop_size=crop_size, cat_max_ratio=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PhotoMetricDistortion),
    dict(type=PackSegInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=ResizeShortestEdge, scale=504, max_size=1 << 14),
    dict(type=ResizeToMultiple, size_divisor=14),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
]
train_dataloader = dict(
    batch_size=2,  # 8 processes
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
)
val_evaluator = dict(type=PerClassIoU, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
