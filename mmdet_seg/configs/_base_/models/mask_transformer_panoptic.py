"""The encoder-only mask transformer for instances and panoptic segments, as mmdet's MaskFormer.

Published values (spec of tue-mps/eomt, COCO): 200 queries, 12 epochs of 7393 iterations.
"""

from mmdet.models import DetDataPreprocessor, MaskFormer, MaskFormerFusionHead

from mmdet_seg.backbones import SplitInternViT
from mmdet_seg.detectors import build_detector
from mmdet_seg.engine import MaskAnnealingHook
from mmdet_seg.heads import PanopticMaskTransformerHead

numbers = dict(num_things_classes=None, num_stuff_classes=None)  # the data's
model = dict(
    type=build_detector,
    detector=MaskFormer,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
        pad_size_divisor=14,
    ),
    backbone=dict(type=SplitInternViT, arch='small', out_indices=-1, num_query_blocks=4),
    panoptic_head=dict(
        type=PanopticMaskTransformerHead,
        **numbers,
        in_stride=None,  # the encoder's
        num_queries=50,
        points=dict(num_points=1024),
        transformer=dict(unmask_empty=True),
    ),
    panoptic_fusion_head=dict(type=MaskFormerFusionHead, **numbers),
    train_cfg=dict(),
    test_cfg=dict(
        panoptic_on=True,
        instance_on=True,
        semantic_on=False,
        max_per_image=50,
        object_mask_thr=0.8,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
annealing_hook = dict(type=MaskAnnealingHook)
# What `--arch` with published weights adds.
published = dict(
    model=dict(
        backbone=dict(grad_checkpointing=True),
        panoptic_head=dict(
            num_queries=200, points=dict(num_points=12544), transformer=dict(unmask_empty=False)
        ),
        test_cfg=dict(max_per_image=100),
    ),
)
# What data with a published schedule add.
published_schedule = dict(
    optim_wrapper=dict(
        optimizer=dict(lr=1e-4, weight_decay=0.05),
        clip_grad=dict(max_norm=0.01),
        paramwise_cfg=dict(layer_decay_rate=0.8, full_rate_blocks=4, apart=True),
    ),
    param_scheduler=[
        dict(type='TwoStageWarmupPolyLR', head_warmup=500, encoder_warmup=1000, power=0.9)
    ],
    train_cfg=dict(max_iters=88716),
)
