"""Mask R-CNN on InternViT, encoder trained end to end.

As given: the small encoder from scratch on the built-in scenes with UperNet's pyramid, about 5
minutes on two cores.

    python tools/train.py configs/mask_rcnn_internvit.py

With ``--arch 6b-224px --data coco``: ViTDet's recipe (simple pyramid, 1024 x
1024, windows of 14 with four global blocks, 184k x 64 images). Nothing was published for InternViT,
and it was not run; ViT-H: box AP 56.7, mask AP 50.2 (detectron2's ``projects/ViTDet``).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes_det import *
    from ._base_.models.mask_rcnn import *
