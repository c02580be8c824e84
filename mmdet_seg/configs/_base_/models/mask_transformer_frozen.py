"""A frozen InternViT and a decoder of the head's own for the queries (PMT).

Published values (spec of tue-mps/pmt): four taps, six blocks with MLPs of 1024 channels, 100
queries; AdamW 2e-4 with 6000 iterations of warm-up, cosine to 1e-9, 16 epochs of ADE20K.
"""

from mmengine.config import read_base

from mmdet_seg.backbones import InternViT

with read_base():
    from .mask_transformer import *

model.backbone = dict(type=InternViT, arch='small', out_indices=(1, 2, 4, 5), frozen=True)
model.decode_head.update(
    in_index=[0, 1, 2, 3],
    decoder=dict(num_blocks=4, hidden_channels=384, norm_cfg=norm_cfg),
)
published = dict(
    model=dict(
        backbone=dict(drop_path_rate=0.0),
        decode_head=dict(
            num_queries=100,
            points=dict(num_points=12544),
            decoder=dict(num_blocks=6, hidden_channels=1024),
            transformer=dict(
                unmask_empty=False,
                annealing=dict(  # 5384, 7403, ... 13461 and 3000, 8749, ... 16826 of 20208
                    starts=[0.0, 0.2664, 0.3663, 0.4662, 0.5662, 0.6661],
                    ends=[0.1485, 0.4329, 0.5329, 0.6328, 0.7327, 0.8326],
                ),
            ),
        ),
    ),
    optim_wrapper=dict(type='OptimWrapper'),
)
published_schedule = dict(
    optim_wrapper=dict(
        optimizer=dict(lr=2e-4, weight_decay=0.05),
        clip_grad=dict(max_norm=0.01),
        paramwise_cfg=dict(layer_decay_rate=1.0),
    ),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=6000),
        dict(type='CosineAnnealingLR', eta_min=1e-9, by_epoch=False, begin=6000, end=20208),
    ],
    train_cfg=dict(max_iters=20208),
)
