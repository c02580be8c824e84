"""ViT-Adapter and UperNet on a frozen InternViT: the best published frozen result.

As given the small encoder stays as it was drawn; name trained weights instead:

    python tools/train.py configs/upernet_adapter_internvit_frozen.py --weights RUN/best_...

With ``--arch 6b-224px --data ade20k``: mIoU 58.1 published (OpenGVLab/InternVL-MMDetSeg; crop 512,
80k x 16 images). ``--cfg-options model.backbone.injection=False`` only reads the encoder, which
then needs no backward pass; nothing was published for that.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.upernet_adapter import *

model.backbone.encoder.update(frozen=True)
published.update(model=dict(backbone=dict(encoder=dict(drop_path_rate=0.0))))
published_300m = dict()
published_miou = dict(ade20k={'6b-224px': 58.1})
