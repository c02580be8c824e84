"""ViT-Adapter around InternViT, mmdet's FPN and Mask R-CNN."""

from mmdet.models import FPN
from mmengine.config import read_base

from mmdet_seg.necks import ViTAdapter

with read_base():
    from .mask_rcnn import *

data_variants.update(coco='_coco_3x')
model.backbone = dict(
    type=ViTAdapter,
    encoder=dict(type=InternViT, arch='small', patch_size=16, img_size=256),
    conv_inplane=32,
    out_indices=(1, 2, 3),
)
model.neck = dict(type=FPN, out_channels=64, num_outs=4)
published['model']['backbone'] = dict(
    conv_inplane=64,
    out_indices=(0, 1, 2, 3),
    grad_checkpointing=True,
    encoder=dict(drop_path_rate=0.4, grad_checkpointing=True, window_size=14),
)
published['model']['neck'] = dict(out_channels=256, num_outs=5)
published_6b = dict(model=dict(backbone=dict(deform_ratio=0.25)))
published_300m = dict(optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.8)))
