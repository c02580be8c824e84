"""Encoder-only mask transformer for panoptic segments and instances, on mmdet.

As given: the small encoder from scratch on the built-in scenes, five kinds of things and eleven of
stuff.

    python tools/train.py configs/eomt_internvit_panoptic.py
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data._scenes_panoptic import *
    from ._base_.models.mask_transformer_panoptic import *

data_variants = dict(scenes='_scenes_panoptic')
custom_hooks = [*custom_hooks, annealing_hook]
