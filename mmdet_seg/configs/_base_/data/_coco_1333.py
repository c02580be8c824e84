"""COCO's instances at 1333 x 800 for 12 epochs of 16 images, mmdet's ``1x``."""

from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.config import read_base

with read_base():
    from .coco import *

max_iters = 87960  # 12 x 7330
optim_wrapper.update(optimizer=dict(weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler[0].update(end=500)
param_scheduler[1].update(milestones=[58640, 80630])
train_cfg.update(max_iters=max_iters, val_interval=7330)
default_hooks.update(checkpoint=dict(interval=7330, max_keep_ckpts=2))
resize = dict(type=Resize, scale=(1333, 800), keep_ratio=True)
train_pipeline[2:5] = [resize]
test_pipeline[1] = resize
train_dataloader.update(batch_size=2)
train_dataloader.dataset.update(pipeline=train_pipeline)
val_dataloader.dataset.update(pipeline=test_pipeline)
test_dataloader = val_dataloader
