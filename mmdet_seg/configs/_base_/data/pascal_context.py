"""Pascal Context, the usual 59 classes, crop 504, sliding windows 504 / 322, published schedule.

Label 0 of the files is background, which the 59 classes leave out. No InternViT result on it was
published.
"""

from mmengine.config import read_base
from mmseg.datasets import PascalContextDataset59

with read_base():
    from ._crops_504 import *

num_classes = 59
dataset = dict(
    type=PascalContextDataset59,  # reduce_zero_label is its default
    data_root='data/VOCdevkit/VOC2010',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
)
train_dataloader.update(
    dataset=dict(
        **dataset,
        ann_file='ImageSets/SegmentationContext/train.txt',
        pipeline=train_pipeline,
    )
)
val_dataloader.update(
    dataset=dict(
        **dataset,
        ann_file='ImageSets/SegmentationContext/val.txt',
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
