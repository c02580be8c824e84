"""The published schedule: AdamW 4e-5, 80k iterations, linear warm-up 1500, linear to 0.

Source: spec of OpenGVLab/InternVL's ``segmentation`` configs (README, table of configs).
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mmdet_seg.engine import LayerDecayOptimWrapperConstructor

with read_base():
    from ..runtime import *

max_iters = 80000
warmup_iters = 1500
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.95),
)
# The warm-up is a factor on the polynomial, as in mmcv 1; mmengine counts one iteration less.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type=PolyLR, power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=max_iters, val_interval=1000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks.update(checkpoint=dict(interval=1000, max_keep_ckpts=2))
