"""Mask transformer on a frozen InternViT: queries pass a small decoder of the head's own (PMT).

As given the small encoder stays as it was drawn; name trained weights instead:

    python tools/train.py configs/eomt_internvit_frozen.py --weights RUN/best_mIoU_iter_540

With ``--arch 300m-448px-v2-5 --data ade20k``: the published recipe of PMT with our encoder and
crop; nothing was published for InternViT (58.5 mIoU with DINOv3-L, github.com/tue-mps/pmt).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.mask_transformer_frozen import *

custom_hooks = [*custom_hooks, annealing_hook]
