"""Mask R-CNN on a frozen InternViT: the authors' one detection config, repaired.

As given the small encoder stays as it was drawn; name trained weights instead:

    python tools/train.py configs/mask_rcnn_internvit_frozen.py --weights RUN/best_segm_AP50_iter_N

With ``--arch 6b-224px --data coco``: patch 16, positions of 256 pixels, windows of 16 in all
blocks, no class token, last block, FPN, 1333 x 800, 12 epochs of 16 images. No AP was published,
and it was not run.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes_det import *
    from ._base_.models.mask_rcnn_fpn import *
