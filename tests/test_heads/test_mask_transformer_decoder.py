"""The form for a frozen encoder: its decoder beside PyTorch's, and what of it trains."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn

import mmdet_seg  # noqa: F401
from mmdet_seg.engine.frozen_parameters import hide_frozen
from mmdet_seg.heads.mask_transformer_decoder import LateralDecoder
from mmdet_seg.registry import MODELS
from tests.golden_data import assert_close

D, HIDDEN, HEADS, BLOCKS = 32, 48, 4, 3


def theirs_like(decoder: LateralDecoder) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        D, HEADS, HIDDEN, 0.0, 'gelu', layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    model = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
    for block, other in zip(decoder.blocks, model.layers, strict=True):
        for ours, name in (
            (block.norm1, 'norm1'),
            (block.norm2, 'norm2'),
            (block.mlp.fc1, 'linear1'),
            (block.mlp.fc2, 'linear2'),
            (block.attn.proj, 'self_attn.out_proj'),
        ):
            other.get_submodule(name).load_state_dict(ours.state_dict())
        other.self_attn.in_proj_weight.data.copy_(block.attn.qkv.weight)
        other.self_attn.in_proj_bias.data.copy_(block.attn.qkv.bias)
    return model


@torch.no_grad()
@pytest.mark.parametrize('masked', [False, True])
def test_blocks_are_pytorchs(masked):
    torch.manual_seed(0)
    decoder = LateralDecoder(
        [D], num_blocks=BLOCKS, hidden_channels=HIDDEN, num_heads=HEADS, norm_cfg=dict(type='BN')
    )
    for param in decoder.blocks.parameters():
        param += 0.2 * torch.randn_like(param)
    for block in decoder.blocks:  # PyTorch's have no scale
        for scale in (block.ls1, block.ls2):
            scale.gamma.fill_(1.0)
    model = theirs_like(decoder.eval()).train()  # eval takes a path of its own
    B, Q, h, w = 2, 5, 3, 4
    tokens, stages = decoder([torch.randn(B, D, h, w)])
    assert tokens.shape == (B, h * w, D)
    assert len(stages) == BLOCKS
    x = y = torch.cat([torch.randn(B, Q, D), tokens], dim=1)
    for stage, layer in zip(stages, model.layers, strict=True):
        seen, theirs = None, None
        if masked:
            seen = torch.rand(B, Q, Q + h * w) > 0.5
            seen[..., 0] = True
            theirs = torch.zeros(B, Q + h * w, Q + h * w, dtype=torch.bool)
            theirs[:, :Q] = ~seen  # PyTorch's is True where nothing is seen
            theirs = theirs.repeat_interleave(HEADS, dim=0)
        x, y = stage(x, seen), layer(y, src_mask=theirs)
    assert_close(x, y)


def test_maps_are_normalised_and_summed():
    """Two maps, of other scales and with channels that stand out, count alike at the start."""
    torch.manual_seed(0)
    decoder = LateralDecoder([D, D], num_blocks=1, norm_cfg=dict(type='BN', affine=False))
    for lateral in decoder.laterals:
        nn.init.zeros_(lateral[2].weight)
        nn.init.zeros_(lateral[2].bias)
    x, y = torch.randn(2, 4, D, 6, 6)
    tokens, _ = decoder.train()([x, 100 * y + 7])
    alone = [
        nn.functional.batch_norm(
            nn.functional.layer_norm(m.movedim(1, 3), [D]).movedim(3, 1), None, None, training=True
        )
        for m in (x, 100 * y + 7)
    ]
    assert_close(tokens, sum(alone).flatten(2).transpose(1, 2))


def test_maps_of_different_width():
    with pytest.raises(ValueError, match='differ in width'):
        LateralDecoder([32, 64])


def segmentor() -> nn.Module:
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(
        ConfigDict(
            type='mmdet_seg.EncoderDecoder',
            backbone=dict(type='InternViT', arch='tiny', out_indices=(1, 3), frozen=True),
            decode_head=dict(
                type='mmdet_seg.MaskTransformerHead',
                num_classes=3,
                in_stride=None,
                in_index=[0, 1],
                num_queries=4,
                decoder=dict(num_blocks=2, hidden_channels=48, norm_cfg=dict(type='BN')),
                points=dict(num_points=64),
            ),
            test_cfg=dict(mode='whole'),
        )
    )


def test_only_the_decoder_trains_and_is_saved():
    from mmseg.structures import SegDataSample

    model = segmentor().train()
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    outs = model.extract_feat(torch.randn(2, 3, 56, 56))
    assert not any(x.requires_grad for x in outs)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(56, 56)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 56, 56)))
        samples.append(sample)
    model.decode_head.transformer.progress = 0.0
    losses = model.loss(torch.randn(2, 3, 56, 56), samples)
    assert len(losses) == 9  # before each of the two blocks and after them
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        assert (param.grad is not None) == name.startswith('decode_head.'), name
    model.backbone.load_report = 'read from a checkpoint'  # and can be read from it again
    hide_frozen(model)
    assert {name.split('.')[0] for name in model.state_dict()} == {'decode_head'}
