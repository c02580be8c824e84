"""InternViT whose last blocks take queries, and their masks and classes (EoMT).

Published values (spec of tue-mps/eomt): four blocks, 100 queries, loss weights 5 for masks, 5 for
dice, 2 for classes and 0.1 for no object (the head's defaults), 12544 points; AdamW 1e-4 falling by
0.8 a block below the last four, decay 0.05, clipping 0.01, heads warm up over 500 iterations and
the encoder over the next 1000, polynomial 0.9.
"""

from mmengine.config import read_base

from mmdet_seg.backbones import SplitInternViT
from mmdet_seg.engine import MaskAnnealingHook
from mmdet_seg.heads import MaskTransformerHead

with read_base():
    from .upernet import *

model.update(
    # Two of the small encoder's six blocks; published encoders have four.
    backbone=dict(type=SplitInternViT, out_indices=-1, num_query_blocks=2),
    neck=None,
    auxiliary_head=None,
)
model.decode_head = dict(
    type=MaskTransformerHead,
    in_stride=None,  # the encoder's
    num_classes=None,  # the data's
    # A short run's share of the published 100 queries and 12544 points.
    num_queries=50,
    points=dict(num_points=1024),
    transformer=dict(unmask_empty=True),
)
annealing_hook = dict(type=MaskAnnealingHook)
# What `--arch` with published weights adds.
published = dict(
    model=dict(
        encoder_dtype='bf16',
        backbone=dict(grad_checkpointing=True, num_query_blocks=4),
        decode_head=dict(
            num_queries=100, points=dict(num_points=12544), transformer=dict(unmask_empty=False)
        ),
    ),
    optim_wrapper=dict(type='OptimWrapper'),
)
published_300m = dict()
# What data with a published schedule add: EoMT's, 31 epochs of ADE20K.
published_schedule = dict(
    optim_wrapper=dict(
        optimizer=dict(lr=1e-4, weight_decay=0.05),
        clip_grad=dict(max_norm=0.01),
        paramwise_cfg=dict(layer_decay_rate=0.8, full_rate_blocks=4, apart=True),
    ),
    param_scheduler=[
        dict(type='TwoStageWarmupPolyLR', head_warmup=500, encoder_warmup=1000, power=0.9)
    ],
    train_cfg=dict(max_iters=39153),
)
