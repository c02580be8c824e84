"""ViT-Adapter and UperNet on InternViT, everything trained.

As given: the small encoder from scratch on the built-in scenes.

    python tools/train.py configs/upernet_adapter_internvit.py

With ``--arch 6b-224px --data ade20k``: crop 512, patches of 16 pixels, the schedule of the
published frozen recipe with the drop path of full tuning. Nothing was published for it.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.upernet_adapter import *
