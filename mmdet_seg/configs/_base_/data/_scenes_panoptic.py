"""Instances and semantic maps of the built-in scenes, written to ``data/scenes`` on first use."""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets.transforms import (
    LoadAnnotations,
    PackDetInputs,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmdet_seg.datasets.scenes_panoptic_dataset import ScenePanopticDataset
from mmdet_seg.engine.panoptic_quality import PanopticQuality

with read_base():
    from ..schedules.scenes_det import *

num_classes, num_things_classes, num_stuff_classes = 16, 5, 11
load_truth = dict(type=LoadAnnotations, with_bbox=True, with_mask=True, with_seg=True)
train_pipeline = [
    dict(type=LoadImageFromFile),
    load_truth,
    dict(
        type=RandomResize,
        scale=(640, 256),
        ratio_range=(0.9, 1.3),
        resize_type=Resize,
        keep_ratio=True,
    ),
    dict(type=RandomCrop, crop_size=(224, 224), recompute_bbox=True, allow_negative_crop=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [dict(type=LoadImageFromFile), load_truth, dict(type=PackDetInputs)]
dataset = dict(type=ScenePanopticDataset, data_root='data/scenes')
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(**dataset, split='training', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(**dataset, split='validation', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=PanopticQuality)
test_evaluator = val_evaluator
max_iters = 800
param_scheduler[1].update(end=max_iters)
train_cfg.update(max_iters=max_iters, val_interval=400)
default_hooks.update(checkpoint=dict(save_best='PQ'))
custom_hooks[2].update(metric='PQ')
