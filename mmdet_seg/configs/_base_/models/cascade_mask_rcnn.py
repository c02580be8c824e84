"""Cascade Mask R-CNN with windows in the encoder, after ViTDet's recipe."""

from mmdet.models import CascadeRoIHead
from mmengine.config import read_base

from mmdet_seg.detectors.semantic_branch import SemanticCascadeRCNN

with read_base():
    from .mask_rcnn import *

# A head for each stage; only how far boxes move and which ones count differ.
box_head = dict(
    type=ConvFCBBoxHead,
    num_shared_convs=1,
    num_shared_fcs=1,
    conv_out_channels=64,
    fc_out_channels=256,
    roi_feat_size=7,
    num_classes=None,
    norm_cfg=norm_cfg,
    reg_class_agnostic=True,
    loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type=L1Loss, loss_weight=1.0),
)
box_stds = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
box_heads = [
    dict(**box_head, bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_stds=stds))
    for stds in box_stds
]
model.update(
    detector=SemanticCascadeRCNN,
    backbone=dict(window_size=8, global_blocks=(1, 3, 5)),
    roi_head=dict(
        type=CascadeRoIHead,
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=box_heads,
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type=MaxIoUAssigner,
                    pos_iou_thr=overlap,
                    neg_iou_thr=overlap,
                    min_pos_iou=overlap,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type=RandomSampler,
                    num=64,
                    pos_fraction=0.25,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for overlap in (0.5, 0.6, 0.7)
        ]
    ),
)
published['model']['roi_head']['bbox_head'] = {
    stage: dict(
        num_shared_convs=4,
        conv_out_channels=256,
        fc_out_channels=1024,
        norm_cfg=dict(_delete_=True, type=LayerNorm2d, eps=1e-6),
    )
    for stage in ('0', '1', '2')
}
many = dict(sampler=dict(num=512))
published['model']['train_cfg']['rcnn'] = {'0': many, '1': many, '2': many}
