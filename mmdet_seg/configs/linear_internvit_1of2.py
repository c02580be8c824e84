"""Few shots: linear head, encoder trained end to end, 1/2 of the training images.

    python tools/train.py configs/linear_internvit_1of2.py --arch 6b-224px --data ade20k

10105 images of ADE20K, 40k iterations: mIoU 55.8 published
(OpenGVLab/InternVL-MMDetSeg). Their list of images is not; ours is drawn with ``subset.seed``.
"""

from mmengine.config import read_base

with read_base():
    from .linear_internvit_1of1 import *

subset = dict(fraction=2, seed=0)
published_length = dict(max_iters=40000, warmup_iters=800)
published_miou = dict(ade20k={'6b-224px': 55.8})
