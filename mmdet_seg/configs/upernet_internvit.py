"""UperNet on InternViT, encoder trained end to end.

As given: the small encoder from scratch on the built-in scenes, about 5 minutes on two cores.

    python tools/train.py configs/upernet_internvit.py

With ``--arch 6b-224px --data ade20k``: the published full tuning (crop 504, 80k x 16 images, drop
path 0.4, layer decay 0.95), mIoU 58.9 (OpenGVLab/InternVL-MMDetSeg; others: arXiv 2412.05271,
table 15). 300M: taps, layer decay and drop path are our choice (``_base_/models/upernet.py``).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.scenes import *
    from ._base_.models.upernet import *

# fmt: off
published_miou = dict(
    ade20k={
        '6b-224px': 58.9, '6b-448px-v1-0': 58.1, '6b-448px-v1-2': 58.8,
        '6b-448px-v1-5': 58.8, '6b-448px-v2-5': 58.6,
    },
    coco_stuff164k={
        '6b-224px': 51.6, '6b-448px-v1-0': 51.7, '6b-448px-v1-2': 51.7,
        '6b-448px-v1-5': 51.5, '6b-448px-v2-5': 51.8,
    },
)
