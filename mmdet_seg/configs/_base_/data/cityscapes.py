"""Cityscapes, 19 classes, crop 504, sliding windows 504 / 322, with the published schedule.

The crop is 504 here too: no InternViT result on Cityscapes was published, and at 504 the encoder's
positions are those of the other data sets. The images keep their own 2048 x 1024 pixels (scaled by
0.5 to 2 in training), since signs and poles vanish at the short side of 504 that ADE20K is given.
"""

from mmengine.config import read_base
from mmseg.datasets import CityscapesDataset

with read_base():
    from ._crops_504 import *

num_classes = 19
train_pipeline[2].update(scale=(2048, 1024))
test_pipeline[1].update(scale=1024)
dataset = dict(type=CityscapesDataset, data_root='data/cityscapes')
train_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    )
)
val_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
