"""A user's own folder (``--data DIR``) with published weights: crop 504, published schedule.

``data_root`` and ``num_classes`` come from the folder.
"""

from mmengine.config import read_base

from mmdet_seg.datasets import FolderSegDataset, LoadFolderMask

with read_base():
    from ._crops_504 import *

train_pipeline[1] = dict(type=LoadFolderMask)
test_pipeline[3] = dict(type=LoadFolderMask)
dataset = dict(type=FolderSegDataset)
train_dataloader.update(dataset=dict(**dataset, split='train', pipeline=train_pipeline))
val_dataloader.update(dataset=dict(**dataset, split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
