"""COCO-Stuff-164K, 171 classes, crop 504, sliding windows 504 / 322, published schedule.

Labels are train ids: 0 to 170, 255 unlabelled (``tools/prepare.py coco_stuff`` writes them).

Source: OpenGVLab/InternVL-MMDetSeg (``coco-stuff164k_504x504``).
"""

from mmengine.config import read_base
from mmseg.datasets import COCOStuffDataset

with read_base():
    from ._crops_504 import *

num_classes = 171
dataset = dict(type=COCOStuffDataset, data_root='data/coco_stuff164k')
train_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=train_pipeline,
    )
)
val_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
