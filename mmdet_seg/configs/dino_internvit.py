"""DINO on InternViT with ViTDet's simple pyramid, encoder trained end to end; boxes only.

As given: the small encoder and a small DINO from scratch on the built-in scenes.

    python tools/train.py configs/dino_internvit.py

With ``--arch 6b-224px --data coco``: DINO's own size, 900 queries, 12 epochs of 16 images at 1024 x
1024 with large-scale jitter. Nothing was published for InternViT, and it was not run.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes_det import *
    from ._base_.models.dino import *

default_hooks.update(checkpoint=dict(save_best='bbox_AP50'))
custom_hooks[2].update(metric='bbox_AP50')
