"""Head tuning: UperNet on a frozen InternViT, auxiliary head on the second map.

As given the small encoder stays as it was drawn; name trained weights instead:

    python tools/train.py configs/upernet_internvit_frozen.py --weights RUN/best_mIoU_iter_540

With ``--arch 6b-224px --data ade20k``: mIoU 54.9 published (OpenGVLab/InternVL-MMDetSeg; others:
arXiv 2412.05271, table 15). 300M: even taps are our choice.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.upernet import *

model.update(backbone=dict(frozen=True), auxiliary_head=dict(in_index=1))
published.update(
    model=dict(backbone=dict(drop_path_rate=0.0, grad_checkpointing=False)),
    optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=1.0)),
)
published_300m = dict()
# fmt: off
published_miou = dict(
    ade20k={
        '6b-224px': 54.9, '6b-448px-v1-0': 55.4, '6b-448px-v1-2': 55.2,
        '6b-448px-v1-5': 55.0, '6b-448px-v2-5': 55.4,
    },
    coco_stuff164k={
        '6b-224px': 48.9, '6b-448px-v1-0': 49.4, '6b-448px-v1-2': 48.8,
        '6b-448px-v1-5': 49.1, '6b-448px-v2-5': 49.7,
    },
)
