"""A user's own folder (``--data DIR``), crop 224, with the short schedule of the scenes.

``data_root`` and ``num_classes`` come from the folder.
"""

from mmcv.transforms import LoadImageFromFile
from mmengine.config import read_base
from mmseg.datasets.transforms import PackSegInputs, Resize

from mmdet_seg.datasets import FolderSegDataset, LoadFolderMask

with read_base():
    from .scenes import *

train_pipeline[1] = dict(type=LoadFolderMask)
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(640, 256), keep_ratio=True),  # as in training; any size may come
    dict(type=LoadFolderMask),
    dict(type=PackSegInputs),
]
dataset = dict(type=FolderSegDataset)
train_dataloader.dataset = dict(**dataset, split='train', pipeline=train_pipeline)
val_dataloader.dataset = dict(**dataset, split='val', pipeline=test_pipeline)
test_dataloader = val_dataloader
