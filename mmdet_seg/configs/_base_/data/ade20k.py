"""ADE20K, 150 classes, crop 504, sliding windows 504 / 322, with the published schedule.

Source: OpenGVLab/InternVL ``segmentation`` (``ade20k_504x504``).
"""

from mmengine.config import read_base
from mmseg.datasets import ADE20KDataset

with read_base():
    from ._crops_504 import *

num_classes = 150
train_pipeline[1].update(reduce_zero_label=True)
test_pipeline[3].update(reduce_zero_label=True)
dataset = dict(type=ADE20KDataset, data_root='data/ade/ADEChallengeData2016')
train_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    )
)
val_dataloader.update(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
