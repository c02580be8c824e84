"""A linear head on InternViT.

As given: the small encoder has no published weights to freeze, so it is trained with the head on
the built-in scenes.

    python tools/train.py configs/linear_internvit.py

With ``--arch 6b-224px --data ade20k``: the published linear probe (encoder frozen in bf16, the map
after 45 blocks, 80k iterations, 16 images, no weight decay), mIoU 47.2 published
(OpenGVLab/InternVL).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.linear import *
