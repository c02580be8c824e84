"""Cascade Mask R-CNN on InternViT after ViTDet: windows, simple pyramid, large-scale jitter.

As given: the small encoder from scratch on the built-in scenes.

    python tools/train.py configs/cascade_mask_rcnn_internvit.py

With ``--arch 6b-224px --data coco``: 1024 x 1024, windows of 14 with four global blocks, 184k x 64
images. Nothing was published for InternViT, and it was not run; ViT-H: box AP 58.7, mask AP 51.0
(detectron2's ``projects/ViTDet``).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes_det import *
    from ._base_.models.cascade_mask_rcnn import *
