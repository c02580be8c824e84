"""Linear probe: batch norm and a 1x1 convolution on one block's map.

As given: trained end to end on the built-in scenes.

    python tools/train.py configs/linear_internvit.py

With ``--arch 6b-224px --data ade20k``: the published probe of the frozen encoder (block 45 of 48,
no weight decay), mIoU 47.2 (OpenGVLab/InternVL-MMDetSeg; others: arXiv 2412.05271, table 15).
300M: block 24 and rate 1e-3 are our choice.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.linear import *

probe_tap = 44
published.update(
    model=dict(backbone=dict(frozen=True, drop_path_rate=0.0, grad_checkpointing=False)),
    optim_wrapper=dict(optimizer=dict(weight_decay=0.0), paramwise_cfg=dict(layer_decay_rate=1.0)),
)
published_300m = dict(optim_wrapper=dict(optimizer=dict(lr=1e-3)))
# fmt: off
published_miou = dict(
    ade20k={
        '6b-224px': 47.2, '6b-448px-v1-0': 43.6, '6b-448px-v1-2': 40.7,
        '6b-448px-v1-5': 40.9, '6b-448px-v2-5': 39.4,
    },
    coco_stuff164k={
        '6b-224px': 42.8, '6b-448px-v1-0': 38.5, '6b-448px-v1-2': 36.1,
        '6b-448px-v1-5': 36.3, '6b-448px-v2-5': 35.6,
    },
)
