"""Few shots: linear head, encoder trained end to end, 1/8 of the training images.

    python tools/train.py configs/linear_internvit_1of8.py --arch 6b-224px --data ade20k

2526 images of ADE20K, 10k iterations: mIoU 50.0 published
(OpenGVLab/InternVL-MMDetSeg). Their list of images is not; ours is drawn with ``subset.seed``.
"""

from mmengine.config import read_base

with read_base():
    from .linear_internvit_1of1 import *

subset = dict(fraction=8, seed=0)
published_length = dict(max_iters=10000, warmup_iters=200)
published_miou = dict(ade20k={'6b-224px': 50.0})
