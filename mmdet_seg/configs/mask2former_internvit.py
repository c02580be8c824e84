"""Mask2Former on InternViT with ViT-Adapter, everything trained.

As given: the small encoder from scratch on the built-in scenes.

    python tools/train.py configs/mask2former_internvit.py

With ``--arch 300m-448px-v2-5 --data ade20k``: the recipe published for ViT-Adapter-L (crop 896, 200
queries, AdamW 2e-5, layer decay 0.9, 160k x 16 images) with our encoder; nothing was published for
InternViT.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.mask2former import *

optim_wrapper.optimizer.update(lr=1e-3)
