"""ViTDet's schedule: AdamW 1e-4, 184,375 iterations of 64 images (100 epochs of COCO).

Source: detectron2's ``projects/ViTDet`` (``mask_rcnn_vitdet_b_100ep``).
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, MultiStepLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mmdet_seg.engine import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor

with read_base():
    from ..det_runtime import *

optim_wrapper = dict(
    type=AutocastOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.7),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type=MultiStepLR, milestones=[163889, 177546], by_epoch=False, gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=184375, val_interval=5000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks.update(checkpoint=dict(interval=5000, max_keep_ckpts=2))
