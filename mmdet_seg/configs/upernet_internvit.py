"""UperNet on InternViT, encoder trained end to end.

As given: the small encoder from scratch on the built-in scenes, about 5 minutes on two cores.

    python tools/train.py configs/upernet_internvit.py

With ``--arch 6b-224px --data ade20k``: the published full-tuning recipe (crop 504, 80k iterations,
16 images, drop path 0.4, layer decay 0.95), mIoU 58.9 published (OpenGVLab/InternVL-MMDetSeg).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.upernet import *
