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
# What `--arch` with published weights adds: the encoder trained end to end, as for few shots.
published = dict(
    model=dict(encoder_dtype='bf16', backbone=dict(drop_path_rate=0.4, grad_checkpointing=True)),
    optim_wrapper=dict(type='OptimWrapper', clip_grad=None),
)
