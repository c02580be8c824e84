"""Frozen InternViT, the authors' pyramid, mmdet's FPN and Mask R-CNN.

Source: OpenGVLab/InternVL-MMDetSeg, ``mask_rcnn_intern_vit_6b_fpn_1x_coco_bs16_frozen``.
"""

from mmdet.models import FPN
from mmengine.config import read_base

from mmdet_seg.necks import FeaturePyramid

with read_base():
    from .mask_rcnn import *

data_variants.update(coco='_coco_1333')
arch_fields = dict(num_prefix_tokens=0)
num_global_blocks = 0
model.update(backbone=dict(frozen=True, out_indices=-1))
model.neck = [dict(type=FeaturePyramid), dict(type=FPN, out_channels=64, num_outs=5)]
published = dict(
    model=dict(
        semantic_head=None,
        backbone=dict(window_size=16),
        neck=[dict(type=FeaturePyramid), dict(type=FPN, out_channels=256, num_outs=5)],
        rpn_head=dict(**published_losses['rpn_head'], feat_channels=256),
        roi_head=dict(
            bbox_roi_extractor=adaptive,
            mask_roi_extractor=adaptive,
            bbox_head=dict(**published_losses['bbox_head'], fc_out_channels=1024),
            mask_head=dict(
                **published_losses['mask_head'], num_convs=4, conv_out_channels=256, norm_cfg=None
            ),
        ),
        train_cfg=published_losses['train_cfg'],
        test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000)),
    ),
    optim_wrapper=dict(clip_grad=None),
)
published_300m = dict()
