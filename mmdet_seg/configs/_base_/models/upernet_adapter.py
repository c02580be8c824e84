"""ViT-Adapter around InternViT with patches of 16 pixels, UperNet and an auxiliary FCN head.

As InternVL-MMDetSeg has it: channel norms, the last block's map added to all four outputs, 4
points, 25 heads with a quarter of the channels for 6B; others have their encoder's heads.
"""

from mmengine.config import read_base

from mmdet_seg.necks import ViTAdapter

with read_base():
    from .upernet import *

model.update(neck=None, data_preprocessor=dict(test_cfg=dict(size_divisor=16)))
model.backbone = dict(
    type=ViTAdapter,
    encoder=dict(type=InternViT, arch='small', patch_size=16, img_size=224),
    conv_inplane=16,
)
# What `--arch` with published weights adds: the full-tuning recipe.
published = dict(
    model=dict(
        encoder_dtype='bf16',
        backbone=dict(
            conv_inplane=64,
            grad_checkpointing=True,
            encoder=dict(drop_path_rate=0.4),
        ),
        decode_head=dict(dropout_ratio=0.1, init_cfg=dict(std=0.01)),
        auxiliary_head=dict(dropout_ratio=0.1, init_cfg=dict(std=0.01)),
    ),
    optim_wrapper=dict(type='OptimWrapper', clip_grad=None),
)
published_6b = dict(model=dict(backbone=dict(deform_ratio=0.25)))
# Our choice, as in upernet.py.
published_300m = dict(
    model=dict(backbone=dict(encoder=dict(drop_path_rate=0.2))),
    optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.9)),
)
# And on data with sliding windows: pixels of the crop, between windows, and of which a test image
# has multiples.
published_crop = dict(side=512, stride=341, divisor=32)
