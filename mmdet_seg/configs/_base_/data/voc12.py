"""Pascal VOC 2012, 21 classes with background, crop 504, sliding windows 504 / 322.

The 1464 images of the challenge's own training list, without the later extra annotations; the
published schedule. No InternViT result on it was published.
"""

from mmengine.config import read_base
from mmseg.datasets import PascalVOCDataset

with read_base():
    from ._crops_504 import *

num_classes = 21
dataset = dict(
    type=PascalVOCDataset,
    data_root='data/VOCdevkit/VOC2012',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader.update(
    dataset=dict(**dataset, ann_file='ImageSets/Segmentation/train.txt', pipeline=train_pipeline)
)
val_dataloader.update(
    dataset=dict(**dataset, ann_file='ImageSets/Segmentation/val.txt', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
