"""Encoder-only mask transformer: queries join InternViT's last blocks (EoMT).

As given: the small encoder from scratch on the built-in scenes.

    python tools/train.py configs/eomt_internvit.py

With ``--arch 300m-448px-v2-5 --data ade20k``: the published recipe of EoMT with our encoder and
crop; nothing was published for InternViT (58.4 mIoU with DINOv2-L, arXiv 2503.19108).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.mask_transformer import *

train_cfg.update(max_iters=800, val_interval=400)
param_scheduler[1].update(end=800)
custom_hooks = [*custom_hooks, annealing_hook]
