"""ViT-Adapter around InternViT, and mmdet's Mask2Former head through mmseg.

The head's published size (ViT-Adapter-L: 200 queries, 1024 channels, 6 and 9 layers) comes with
published encoders; alone it is narrow enough for two cores.
"""

from mmengine.config import read_base
from mmseg.models import Mask2FormerHead

with read_base():
    from .upernet_adapter import *

model.update(auxiliary_head=None)
model.decode_head = dict(
    type=Mask2FormerHead,
    in_index=[0, 1, 2, 3],
    strides=[4, 8, 16, 32],
    feat_channels=64,
    out_channels=64,
    num_classes=None,  # the data's
    num_queries=40,
    num_transformer_feat_level=3,
    align_corners=False,
    pixel_decoder=dict(
        type='mmdet.MSDeformAttnPixelDecoder',
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=32),
        act_cfg=dict(type='ReLU'),
        encoder=dict(
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=dict(
                    embed_dims=64, num_heads=4, num_levels=3, num_points=4, batch_first=True
                ),
                ffn_cfg=dict(embed_dims=64, feedforward_channels=128, num_fcs=2),
            ),
        ),
        positional_encoding=dict(num_feats=32, normalize=True),
    ),
    enforce_decoder_input_project=False,
    positional_encoding=dict(num_feats=32, normalize=True),
    transformer_decoder=dict(
        return_intermediate=True,
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_heads=4, batch_first=True),
            cross_attn_cfg=dict(embed_dims=64, num_heads=4, batch_first=True),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128, num_fcs=2),
        ),
        init_cfg=None,
    ),
    loss_cls=dict(
        type='mmdet.CrossEntropyLoss',
        loss_weight=2.0,
        class_weight=None,  # 1 for each of the data's classes, 0.1 for no object
    ),
    loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
    loss_dice=dict(type='mmdet.DiceLoss', naive_dice=True, eps=1.0, loss_weight=5.0),
    train_cfg=dict(
        num_points=2048,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type='mmdet.HungarianAssigner',
            match_costs=[
                dict(type='mmdet.ClassificationCost', weight=2.0),
                dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type='mmdet.MaskPseudoSampler'),
    ),
)
# What `--arch` with published weights adds.
wide = dict(embed_dims=1024, num_heads=32)
wide_ffn = dict(embed_dims=1024, feedforward_channels=4096)
published = dict(
    model=dict(
        encoder_dtype='bf16',
        backbone=dict(
            conv_inplane=64,
            grad_checkpointing=True,
            encoder=dict(drop_path_rate=0.4),
        ),
        decode_head=dict(
            feat_channels=1024,
            out_channels=1024,
            num_queries=200,
            pixel_decoder=dict(
                encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=wide, ffn_cfg=wide_ffn)),
                positional_encoding=dict(num_feats=512),
            ),
            positional_encoding=dict(num_feats=512),
            transformer_decoder=dict(
                num_layers=9,
                layer_cfg=dict(self_attn_cfg=wide, cross_attn_cfg=wide, ffn_cfg=wide_ffn),
            ),
            train_cfg=dict(num_points=12544),
        ),
    ),
    optim_wrapper=dict(type='OptimWrapper', clip_grad=None),
)
published_300m = dict(model=dict(backbone=dict(encoder=dict(drop_path_rate=0.2))))
# And with data that bring a published schedule: that of ViT-Adapter-L.
published_crop = dict(side=896, stride=512, divisor=32)
published_length = dict(max_iters=160000, warmup_iters=1500)
published_schedule = dict(
    optim_wrapper=dict(
        optimizer=dict(lr=2e-5, weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=0.9)
    )
)
