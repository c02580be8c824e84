"""Few shots: linear head, encoder trained end to end, 1/16 of the training images.

    python tools/train.py configs/linear_internvit_1of16.py --arch 6b-224px --data ade20k

1263 images of ADE20K, 5k iterations: mIoU 46.5 published
(OpenGVLab/InternVL-MMDetSeg). Their list of images is not; ours is drawn with ``subset.seed``.
"""

from mmengine.config import read_base

with read_base():
    from .linear_internvit_1of1 import *

subset = dict(fraction=16, seed=0)
published_length = dict(max_iters=5000, warmup_iters=100)
published_miou = dict(ade20k={'6b-224px': 46.5})
