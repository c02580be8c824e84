"""InternViT, a pyramid of strides P/4 to 2P, UperNet and an auxiliary FCN head.

``--arch`` replaces the encoder and sets the width that was published or is usual with it; channel
numbers come from the encoder.
"""

from mmseg.models import CrossEntropyLoss, FCNHead, UPerHead
from torch.nn import SyncBatchNorm

from mmdet_seg.backbones import InternViT
from mmdet_seg.necks import FeaturePyramid
from mmdet_seg.segmentors import EncoderDecoder, SegDataPreProcessor

norm_cfg = dict(type=SyncBatchNorm, requires_grad=True)
# mmseg's 0.01 costs a short run some fifty iterations.
classifier_init = dict(type='Normal', std=0.1, override=dict(name='conv_seg'))
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=None,  # the data's crop
        test_cfg=dict(size_divisor=14),
    ),
    backbone=dict(type=InternViT, arch='small', out_indices=(1, 2, 4, 5)),
    neck=dict(type=FeaturePyramid),
    decode_head=dict(
        type=UPerHead,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=32,
        dropout_ratio=0.0,
        init_cfg=classifier_init,
        num_classes=None,  # the data's
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type=FCNHead,
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        init_cfg=classifier_init,
        num_classes=None,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
# What `--arch` with published weights adds: the full-tuning recipe.
published = dict(
    model=dict(
        encoder_dtype='bf16',
        backbone=dict(drop_path_rate=0.4, grad_checkpointing=True),
        decode_head=dict(dropout_ratio=0.1, init_cfg=dict(std=0.01)),
        auxiliary_head=dict(dropout_ratio=0.1, init_cfg=dict(std=0.01)),
    ),
    optim_wrapper=dict(type='OptimWrapper', clip_grad=None),
)
# Nothing was published for 300M; our choice: the lowest block learns at the 6B recipe's share of
# the rate (0.9 ** 24 is 0.95 ** 48), half the drop path.
published_300m = dict(
    model=dict(backbone=dict(drop_path_rate=0.2)),
    optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.9)),
)
