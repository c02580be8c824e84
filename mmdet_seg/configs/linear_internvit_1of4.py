"""Few shots: linear head, encoder trained end to end, 1/4 of the training images.

    python tools/train.py configs/linear_internvit_1of4.py --arch 6b-224px --data ade20k

5052 images of ADE20K, 20k iterations: mIoU 53.3 published
(OpenGVLab/InternVL-MMDetSeg). Their list of images is not; ours is drawn with ``subset.seed``.
"""

from mmengine.config import read_base

with read_base():
    from .linear_internvit_1of1 import *

subset = dict(fraction=4, seed=0)
published_length = dict(max_iters=20000, warmup_iters=400)
published_miou = dict(ade20k={'6b-224px': 53.3})
