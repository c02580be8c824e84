"""Mask R-CNN on a ViT-Adapter around InternViT, everything trained.

As given: the small encoder from scratch on the built-in scenes.

    python tools/train.py configs/mask_rcnn_adapter_internvit.py

With ``--arch 6b-224px --data coco``: the original ViT-Adapter's recipe (windows of 14 with four
global blocks, 36 epochs of 16 images at several scales). Nothing was published for InternViT, and
it was not run; ViT-Adapter-L: box AP 52.1, mask AP 46.0 (czczup/ViT-Adapter).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes_det import *
    from ._base_.models.mask_rcnn_adapter import *
