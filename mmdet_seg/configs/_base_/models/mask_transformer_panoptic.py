"""The encoder-only mask transformer for instances and panoptic segments, as mmdet's MaskFormer.

Published values (spec of tue-mps/eomt, COCO): 200 queries; the schedule comes with the data.
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
    backbone=dict(type=SplitInternViT, arch='small', out_indices=-1, num_query_blocks=2),
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
        backbone=dict(grad_checkpointing=True, num_query_blocks=4),
        panoptic_head=dict(
            num_queries=200, points=dict(num_points=12544), transformer=dict(unmask_empty=False)
        ),
        test_cfg=dict(max_per_image=100),
    ),
)
