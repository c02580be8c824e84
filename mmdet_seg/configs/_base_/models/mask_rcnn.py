"""InternViT and mmdet's Mask R-CNN.

As it is for the small encoder, which learns from nothing with UperNet's pyramid; ``--arch`` with
published weights makes it ViTDet's recipe with the simple pyramid (detectron2's
``projects/ViTDet``). Channels and strides come from the encoder.
"""

from mmdet.models import (
    FPN,
    CrossEntropyLoss,
    DetDataPreprocessor,
    FCNMaskHead,
    L1Loss,
    RPNHead,
    SingleRoIExtractor,
    StandardRoIHead,
)
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules import (
    AnchorGenerator,
    DeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    RandomSampler,
)

from mmdet_seg.backbones import InternViT
from mmdet_seg.detectors import build_detector
from mmdet_seg.detectors.semantic_branch import SemanticMaskRCNN
from mmdet_seg.necks import FeaturePyramid, PyramidPooling, SimplePyramid
from mmdet_seg.necks.feature_pyramid import LayerNorm2d
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm

data_variants = dict(scenes='scenes_det')
num_global_blocks = 4  # evenly spaced, where the encoder has windows
norm_cfg = dict(type='GN', num_groups=8)
sampler = dict(type=RandomSampler, pos_fraction=0.5, neg_pos_ub=-1)
model = dict(
    type=build_detector,
    detector=SemanticMaskRCNN,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
        pad_size_divisor=32,
    ),
    # The detectors' strides are powers of two; published kernels are resampled on loading.
    backbone=dict(
        type=InternViT, arch='small', patch_size=16, img_size=256, out_indices=(1, 2, 4, 5)
    ),
    neck=[
        dict(type=FeaturePyramid),
        dict(type=PyramidPooling),
        dict(type=FPN, out_channels=64, num_outs=5, norm_cfg=dict(type=SyncBatchNorm)),
    ],
    rpn_head=dict(
        type=RPNHead,
        feat_channels=64,
        anchor_generator=dict(type=AnchorGenerator, scales=None, ratios=[0.5, 1.0, 2.0]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        # From nothing, an encoder hears of extents only what is said loudly.
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True, loss_weight=2.0),
        loss_bbox=dict(type=L1Loss, loss_weight=10.0),
    ),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_roi_extractor=dict(
            type=SingleRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
        ),
        bbox_head=dict(
            type=ConvFCBBoxHead,
            num_shared_convs=0,
            num_shared_fcs=2,
            fc_out_channels=256,
            norm_cfg=None,
            roi_feat_size=7,
            num_classes=None,
            bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=True,
            loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=2.0),
            loss_bbox=dict(type=L1Loss, loss_weight=4.0),
        ),
        mask_roi_extractor=dict(
            type=SingleRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=2),
        ),
        mask_head=dict(
            type=FCNMaskHead,
            num_convs=2,
            conv_out_channels=64,
            num_classes=None,
            norm_cfg=norm_cfg,
            loss_mask=dict(type=CrossEntropyLoss, use_mask=True, loss_weight=2.0),
        ),
    ),
    # Only where the data bring label maps.
    semantic_head=dict(num_classes=None, loss_weight=2.0),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=MaxIoUAssigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                ignore_iof_thr=-1,
            ),
            sampler=dict(**sampler, num=128, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=300, max_per_img=150, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            assigner=dict(
                type=MaxIoUAssigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                ignore_iof_thr=-1,
            ),
            sampler=dict(**sampler, num=64, add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=300, max_per_img=150, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    ),
)
# What `--arch` with published weights adds.
adaptive = dict(roi_layer=dict(sampling_ratio=0))  # as many samples as a bin has pixels
unit = dict(loss_weight=1.0)
published_losses = dict(
    rpn_head=dict(loss_cls=unit, loss_bbox=unit),
    bbox_head=dict(reg_class_agnostic=False, loss_cls=unit, loss_bbox=unit),
    mask_head=dict(loss_mask=unit),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.7), sampler=dict(num=256)),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000),
        rcnn=dict(sampler=dict(pos_fraction=0.25, num=512)),
    ),
)
published = dict(
    model=dict(
        backbone=dict(out_indices=-1, drop_path_rate=0.5, grad_checkpointing=True, window_size=14),
        semantic_head=None,
        neck=dict(_delete_=True, type=SimplePyramid, out_channels=256),
        rpn_head=dict(**published_losses['rpn_head'], feat_channels=256, num_convs=2),
        roi_head=dict(
            bbox_roi_extractor=adaptive,
            mask_roi_extractor=adaptive,
            bbox_head=dict(
                **published_losses['bbox_head'],
                num_shared_convs=4,
                num_shared_fcs=1,
                conv_out_channels=256,
                fc_out_channels=1024,
                norm_cfg=dict(_delete_=True, type=LayerNorm2d, eps=1e-6),
            ),
            mask_head=dict(
                **published_losses['mask_head'],
                num_convs=4,
                conv_out_channels=256,
                norm_cfg=dict(_delete_=True, type=LayerNorm2d, eps=1e-6),
            ),
        ),
        train_cfg=published_losses['train_cfg'],
        test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000)),
    ),
    optim_wrapper=dict(clip_grad=None, paramwise_cfg=dict(layer_decay_rate=0.9)),
)
# ViT-L's of the same number of blocks.
published_300m = dict(
    model=dict(backbone=dict(drop_path_rate=0.4)),
    optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.8)),
)
