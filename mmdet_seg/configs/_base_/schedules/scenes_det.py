"""Detection from scratch on the built-in scenes: what two cores do in about five minutes."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mmdet_seg.engine import AutocastOptimWrapper, LayerDecayOptimWrapperConstructor

with read_base():
    from ..det_runtime import *

max_iters = 400
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.02, fused=True),
    clip_grad=dict(max_norm=1.0),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=1.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=False, begin=30, end=max_iters),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=max_iters, val_interval=200)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks.update(checkpoint=dict(interval=100, max_keep_ckpts=2))
