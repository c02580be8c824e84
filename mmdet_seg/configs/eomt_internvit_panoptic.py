"""Encoder-only mask transformer for panoptic segments and instances, on mmdet.

As given: the small encoder from scratch on the built-in scenes, five kinds of things and eleven of
stuff.

    python tools/train.py configs/eomt_internvit_panoptic.py

With ``--arch 300m-448px-v2-5 --data coco``: EoMT's recipe for COCO panoptic with our encoder;
nothing was published for InternViT (57.0 PQ with DINOv2-g at 640, github.com/tue-mps/eomt).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data._scenes_panoptic import *
    from ._base_.models.mask_transformer_panoptic import *

data_variants = dict(scenes='_scenes_panoptic', coco='_coco_panoptic')
custom_hooks = [*custom_hooks, annealing_hook]
