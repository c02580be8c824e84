"""COCO panoptic, 80 things and 53 kinds of stuff, at 630 pixels with EoMT's schedule.

12 epochs of 7393 iterations of 16 images; 630 is the multiple of 14 next to EoMT's 640.
"""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.transforms import PackDetInputs, RandomCrop, RandomFlip, Resize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmdet_seg.datasets.coco_panoptic import LoadPanoptic
from mmdet_seg.engine import TwoStageWarmupPolyLR
from mmdet_seg.engine.panoptic_quality import PanopticQuality

with read_base():
    from ..schedules.vitdet_184k import *

num_classes, num_things_classes, num_stuff_classes = 133, 80, 53
image_size = (630, 630)
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadPanoptic),
    dict(
        type=RandomResize,
        scale=image_size,
        ratio_range=(0.1, 2.0),
        resize_type=Resize,
        keep_ratio=True,
    ),
    dict(type=RandomCrop, crop_size=image_size, recompute_bbox=True, allow_negative_crop=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=LoadPanoptic),
    dict(
        type=PackDetInputs,
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(type=CocoPanopticDataset, data_root='data/coco')
train_dataloader = dict(
    batch_size=2,  # 8 processes
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        **dataset,
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017', seg='annotations/panoptic_train2017'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        **dataset,
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017', seg='annotations/panoptic_val2017'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=PanopticQuality)
test_evaluator = val_evaluator
optim_wrapper.update(
    optimizer=dict(weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    paramwise_cfg=dict(layer_decay_rate=0.8, full_rate_blocks=4, apart=True),
)
param_scheduler = [dict(type=TwoStageWarmupPolyLR, head_warmup=500, encoder_warmup=1000, power=0.9)]
train_cfg.update(max_iters=88716, val_interval=7393)
