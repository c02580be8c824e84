"""COCO's instances at short sides of 480 to 800 for 36 epochs of 16 images, mmdet's ``3x``."""

from mmcv.transforms import RandomChoiceResize
from mmdet.datasets.transforms import Resize
from mmengine.config import read_base

with read_base():
    from ._coco_1333 import *

max_iters = 263880  # 36 x 7330
param_scheduler[1].update(milestones=[197910, 241890])
train_cfg.update(max_iters=max_iters)
train_pipeline[2] = dict(
    type=RandomChoiceResize,
    scales=[(1333, side) for side in range(480, 801, 32)],
    resize_type=Resize,
    keep_ratio=True,
)
train_dataloader.dataset.update(pipeline=train_pipeline)
