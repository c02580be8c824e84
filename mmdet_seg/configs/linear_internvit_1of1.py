"""Linear head, encoder trained end to end, on all training images; the few-shot recipes' base.

    python tools/train.py configs/linear_internvit_1of1.py --arch 6b-224px --data ade20k

mIoU 57.2 published (OpenGVLab/InternVL-MMDetSeg).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.linear import *

published_miou = dict(ade20k={'6b-224px': 57.2})
