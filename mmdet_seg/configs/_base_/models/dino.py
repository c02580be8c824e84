"""InternViT, ViTDet's simple pyramid and mmdet's DINO at strides 8 to 64.

As it is for the small encoder; ``--arch`` with published weights makes it DINO's own size, the
encoder after ViTDet's recipe.

Source: mmdet's ``dino-4scale_r50_8xb2-12e_coco``.
"""

from mmdet.models import DetDataPreprocessor, DINOHead, FocalLoss, GIoULoss, L1Loss
from mmdet.models.task_modules import BBoxL1Cost, FocalLossCost, HungarianAssigner, IoUCost

from mmdet_seg.backbones import InternViT
from mmdet_seg.detectors import build_detector
from mmdet_seg.detectors.dino import CheckedDINO
from mmdet_seg.necks import SimplePyramid

data_variants = dict(scenes='scenes_det', coco='_coco_dino')
num_global_blocks = 4
width = dict(embed_dims=256)  # mmdet's decoder encodes boxes for no other
ffn = dict(**width, feedforward_channels=512, ffn_drop=0.0)
over_maps = dict(**width, num_levels=4, dropout=0.0)
model = dict(
    type=build_detector,
    detector=CheckedDINO,
    num_queries=100,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=InternViT, arch='small', patch_size=16, img_size=256, out_indices=(1, 2, 4, 5)
    ),
    neck=dict(type=SimplePyramid, out_channels=256, factors=(2, 1, 0.5), norm='sync_bn'),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=over_maps, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=2,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(**width, num_heads=8, dropout=0.0),
            cross_attn_cfg=over_maps,
            ffn_cfg=ffn,
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type=DINOHead,
        num_classes=None,
        sync_cls_avg_factor=True,
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=5.0),
        loss_iou=dict(type=GIoULoss, loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type=HungarianAssigner,
            match_costs=[
                dict(type=FocalLossCost, weight=2.0),
                dict(type=BBoxL1Cost, weight=5.0, box_format='xywh'),
                dict(type=IoUCost, iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)
# What `--arch` with published weights adds.
wide = dict(ffn_cfg=dict(feedforward_channels=2048))
published = dict(
    model=dict(
        num_queries=900,
        backbone=dict(out_indices=-1, drop_path_rate=0.5, grad_checkpointing=True, window_size=14),
        neck=dict(norm='layer'),
        encoder=dict(num_layers=6, layer_cfg=wide),
        decoder=dict(num_layers=6, layer_cfg=wide),
        test_cfg=dict(max_per_img=300),
    ),
    optim_wrapper=dict(clip_grad=dict(max_norm=0.1), paramwise_cfg=dict(layer_decay_rate=0.9)),
)
published_300m = dict(
    model=dict(backbone=dict(drop_path_rate=0.4)),
    optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.8)),
)
