"""Parameter groups: rates by depth, no decay where there should be none, nothing frozen."""

import pytest
import torch
from torch import nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.engine import LayerDecayOptimWrapperConstructor
from mmdet_seg.engine.frozen_parameters import hide_frozen
from mmdet_seg.engine.parameter_table import show


class Model(nn.Module):
    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.backbone = InternViT('tiny', **kwargs)
        self.decode_head = nn.Conv2d(32, 3, 1)


def groups_of(model, **paramwise):
    constructor = LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05)), paramwise
    )
    names = {p: n for n, p in model.named_parameters()}
    found = {}
    for group in constructor(model).optimizer.param_groups:
        for param in group['params']:
            assert names[param] not in found
            found[names[param]] = (group['lr'], group['weight_decay'])
    return found


def test_rates_and_decay():
    found = groups_of(Model(), layer_decay_rate=0.5)
    expected = {
        'backbone.pos_embed': (1e-3 * 0.5**5, 0.0),
        'backbone.cls_token': (1e-3 * 0.5**5, 0.0),
        'backbone.patch_embed.proj.weight': (1e-3 * 0.5**5, 0.05),
        'backbone.patch_embed.proj.bias': (1e-3 * 0.5**5, 0.0),
        'backbone.blocks.0.attn.qkv.weight': (1e-3 * 0.5**4, 0.05),
        'backbone.blocks.3.norm1.weight': (1e-3 * 0.5, 0.0),
        'backbone.blocks.3.mlp.fc1.weight': (1e-3 * 0.5, 0.05),
        'decode_head.weight': (1e-3, 0.05),
        'decode_head.bias': (1e-3, 0.0),
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name
    assert found.keys() == {n for n, _ in Model().named_parameters()}


def test_the_authors_decay_of_positions_is_there_by_name():
    found = groups_of(Model(), decay_positions=True)
    assert found['backbone.pos_embed'][1] == found['backbone.cls_token'][1] == 0.05


def test_frozen_parameters_are_in_no_group_and_equal_groups_are_one():
    assert groups_of(Model(frozen=True)).keys() == {'decode_head.weight', 'decode_head.bias'}
    optimizer = LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3)))(
        Model()
    ).optimizer
    assert len(optimizer.param_groups) == 1


def test_the_table_at_the_start_shows_rates_by_depth(capsys):
    model = Model(frozen_stages=1)
    settings = dict(optimizer=dict(type='AdamW', lr=1e-3))
    constructor = LayerDecayOptimWrapperConstructor(settings, dict(layer_decay_rate=0.5))
    groups = constructor(model).optimizer.param_groups
    hide_frozen(model)
    show(model, groups)
    rows = [line.split() for line in capsys.readouterr().err.splitlines()]
    by_name = {row[0]: row for row in rows}
    blocks, head = by_name['backbone.blocks'], by_name['decode_head']
    assert blocks[-3:] == ['0.000125', '..', '0.0005']  # of the blocks 1 to 3
    assert head[-1] == '0.001'
    trained = sum(p.numel() for p in model.parameters())
    assert rows[-1][:2] == ['all', f'{trained:,}']


def test_mistakes():
    with pytest.raises(ValueError, match='num_layers; this constructor takes layer_decay_rate'):
        groups_of(Model(), num_layers=4)
    with pytest.raises(ValueError, match=r'layer_decay_rate=1.5 is not in \(0, 1\]'):
        groups_of(Model(), layer_decay_rate=1.5)
    plain = nn.Module()
    plain.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match='Conv2d has none: set'):
        groups_of(plain, layer_decay_rate=0.9)
    assert torch.is_tensor(next(plain.parameters()))
    groups_of(plain)
