"""InternViT and a linear head (batch norm, 1x1 convolution) on one block's map."""

from mmengine.config import read_base
from mmseg.models import CrossEntropyLoss

from mmdet_seg.heads import LinearHead

with read_base():
    from .upernet import *

model.update(backbone=dict(out_indices=-1), neck=None, auxiliary_head=None)
model.decode_head = dict(
    type=LinearHead,
    num_classes=None,
    norm_cfg=norm_cfg,
    align_corners=False,
    loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
)
# What `--arch` with published weights adds: the linear probe (47.2 on ADE20K).
published = dict(
    model=dict(backbone=dict(frozen=True, drop_path_rate=0.0)),
    optim_wrapper=dict(
        optimizer=dict(weight_decay=0.0),
        paramwise_cfg=dict(layer_decay_rate=1.0),
        clip_grad=None,
    ),
)
