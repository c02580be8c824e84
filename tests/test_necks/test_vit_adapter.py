"""ViT-Adapter against the authors' outputs, and what it promises beside them."""

import re
from collections import Counter

import pytest
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from torch import nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.engine import LayerDecayOptimWrapperConstructor
from mmdet_seg.necks import ViTAdapter
from mmdet_seg.necks.adapter_layers import DeformAttention, Interaction, Places
from mmdet_seg.necks.block_groups import even_groups
from tests.golden_data import (
    assert_close,
    golden_names,
    load_case,
    load_meta,
    relative_error,
)
from tests.test_necks.adapter_cases import INTERNVIT, ORIGINAL, build

ARCH = dict(embed_dim=32, depth=4, num_heads=2, mlp_ratio=2.0, patch_size=16, img_size=64)


def small(seed: int = 0, encoder: dict | None = None, **kwargs) -> ViTAdapter:
    """An adapter whose injectors do something."""
    torch.manual_seed(seed)
    kwargs = dict(conv_inplane=8, init_values=0.5) | kwargs
    model = ViTAdapter(dict(arch=ARCH, **(encoder or {})), **kwargs)
    for module in model.modules():
        if isinstance(module, DeformAttention):  # other places and weights for every query
            nn.init.normal_(module.sampling_offsets.weight, std=0.3)
            nn.init.normal_(module.attention_weights.weight, std=0.3)
    return model


@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('name', [*INTERNVIT, *ORIGINAL])
def test_maps_and_tokens_equal_the_authors(name, grad):
    case = load_case(name)
    model, x, expected = build(case), case.inputs['x'], case.outputs
    with torch.set_grad_enabled(grad):
        outs = model(x)
        assert len(outs) == sum(key.startswith('f.') for key in expected)
        for i, out in enumerate(outs):
            assert_close(out, expected[f'f.{i}'])
        if 'interaction0.x' not in expected:
            return
        finest, c, places = model.prior(x)
        maps = [] if finest is None else [finest]
        sizes = [h * w for h, w in places.sizes]
        for level, embed in zip(c.split(sizes, dim=1), model.level_embed, strict=True):
            maps.append(level - embed)
        for i, found in enumerate(maps):
            assert_close(found, expected[f'spm.{i}'])
        for i, (tokens, adapted) in enumerate(model.interact(x, c, places)):
            assert_close(tokens, expected[f'interaction{i}.x'])
            assert_close(adapted, expected[f'interaction{i}.c'])


def test_the_whole_golden_set_is_named_here():
    at_hand = {*golden_names('C_internvit_adapter'), *golden_names('C_vitadapter')}
    assert at_hand <= {*INTERNVIT, *ORIGINAL}


def test_deformable_attention_equals_the_authors():
    case = load_case('C_msdeformattn')
    config = case.meta['config']
    layer = DeformAttention(
        config['d_model'],
        config['n_levels'],
        config['n_heads'],
        config['n_points'],
        config['ratio'],
    )
    layer.load_state_dict(case.state_dict)
    places = case.inputs['reference_points'].expand(-1, -1, config['n_levels'], -1)
    shapes = [tuple(s) for s in case.inputs['spatial_shapes'].tolist()]
    cells = case.inputs['spatial_shapes'].flip(1)
    found = layer(case.inputs['query'], places, case.inputs['input_flatten'], shapes, cells)
    assert_close(found, case.outputs['output'])


def test_gradients_of_an_interaction():
    torch.manual_seed(0)
    layer = Interaction(6, 2, (3, 2, 1.0), 1e-5, 0.5, 0.0, gamma=0.5, num_extra=1).double()
    for module in layer.modules():
        if isinstance(module, DeformAttention):
            nn.init.normal_(module.sampling_offsets.weight, std=0.1)
    sizes, grid = [(4, 2), (2, 1)], (2, 1)
    x = torch.randn(1, 2, 6, dtype=torch.double, requires_grad=True)
    c = torch.randn(1, 10, 6, dtype=torch.double, requires_grad=True)
    places = Places.of(sizes, (8, 16), grid, 16, x)
    # On the border between two cells interpolation has a kink; the directions point along them.
    places = places._replace(in_levels=places.in_levels + 0.03, in_grid=places.in_grid - 0.02)

    def run(x, c):
        x = layer.injector(x, c, places)
        for extractor in layer.extractors():
            c = extractor(c, x, places)
        return x, c

    assert torch.autograd.gradcheck(run, (x, c))


@pytest.mark.parametrize(
    ('depth', 'groups'),
    [
        (12, [(0, 2), (3, 5), (6, 8), (9, 11)]),
        (24, [(0, 5), (6, 11), (12, 17), (18, 23)]),
        (40, [(0, 9), (10, 19), (20, 29), (30, 39)]),
        (48, [(0, 11), (12, 23), (24, 35), (36, 47)]),
        (45, [(0, 10), (11, 21), (22, 33), (34, 44)]),
    ],
)
def test_groups_are_the_published_ones(depth, groups):
    assert even_groups(depth, 4) == groups


def test_groups_hold_every_block_once():
    for depth in range(1, 60):
        for num in range(1, 7):
            groups = even_groups(depth, num)
            assert [i for a, b in groups for i in range(a, b + 1)] == list(range(depth))
            lengths = [b - a for a, b in groups]
            assert len(groups) == min(num, depth)
            assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize('patch_size', [14, 16])
@pytest.mark.parametrize('size', [(64, 96), (50, 75), (126, 70), (16, 16), (1, 40)])
def test_any_size(size, patch_size):
    model = small(encoder=dict(patch_size=patch_size, img_size=4 * patch_size)).eval()
    assert model.output_spec() == [(32, 4), (32, 8), (32, 16), (32, 32)]
    outs = model(torch.randn(2, 3, *size))
    for out, spec in zip(outs, model.output_spec(), strict=True):
        h, w = (-(-side // spec.stride) for side in size)
        assert out.shape == (2, 32, h, w)
        assert torch.isfinite(out).all()


@torch.no_grad()
def test_padding_is_cut_off_again():
    model = small().eval()
    x = torch.randn(1, 3, 72, 40)
    whole = model(nn.functional.pad(x, (0, 8, 0, 8)))
    for out, padded in zip(model(x), whole, strict=True):
        torch.testing.assert_close(out, padded[:, :, : out.shape[2], : out.shape[3]])


def test_places_are_those_of_the_pixels():
    """36 patches of 14 pixels beside maps that cover 504, 512 and 512 pixels."""
    places = Places.of([(63, 63), (32, 32), (16, 16)], (8, 16, 32), (36, 36), 14, torch.zeros(1))
    centre = 14 * torch.arange(36) + 7.0
    for level, covered in enumerate((504, 512, 512)):
        x, y = places.in_levels[0, :, level].view(36, 36, 2).unbind(-1)
        torch.testing.assert_close(x * covered, centre.expand(36, 36))
        torch.testing.assert_close(y * covered, centre[:, None].expand(36, 36))
    last = places.in_grid[0, -256:, 0].view(16, 16, 2)
    torch.testing.assert_close(last[-1, -1] * 504, torch.tensor([496.0, 496.0]))


@torch.no_grad()
def test_at_the_start_the_encoder_is_as_it_was():
    model = small(init_values=0.0).eval()
    x = torch.randn(1, 3, 64, 64)
    _, c, places = model.prior(x)
    *_, (tokens, _) = model.interact(x, c, places)
    torch.testing.assert_close(tokens, model.encoder.forward_features(x))


def test_class_token_dropped_or_kept():
    encoder = InternViT(ARCH)
    patches = encoder.pos_embed[:, 1:].clone()
    dropped = ViTAdapter(encoder, conv_inplane=8)
    assert dropped.encoder.num_prefix_tokens == 0
    assert torch.equal(dropped.encoder.pos_embed, patches)
    kept = small(class_token=True)
    assert kept.encoder.num_prefix_tokens == 1
    grads = gradients(kept, torch.randn(1, 3, 64, 64), False)
    assert grads['encoder.cls_token'].abs().max() > 1e-3
    assert grads['interactions.0.injector.gamma'].abs().max() > 1e-3


def gradients(model: ViTAdapter, x: torch.Tensor, adapter_only: bool = True) -> dict:
    torch.manual_seed(1)
    outs = model.train()(x)
    # The maps are normalised: their own squares would have no gradient.
    generator = torch.Generator().manual_seed(2)
    sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outs).backward()
    return {
        n: p.grad
        for n, p in model.named_parameters()
        if not (adapter_only and n.startswith('encoder.'))
    }


@pytest.mark.parametrize(
    ('encoder', 'adapter'),
    [
        (dict(frozen=True, dtype='fp32'), {}),
        (dict(frozen=True, dtype='fp32'), dict(grad_checkpointing=True)),
        (dict(frozen_stages=3), dict(grad_checkpointing=True)),
        (dict(grad_checkpointing=True), {}),
    ],
)
def test_frozen_and_recomputed_gradients_are_the_same(encoder, adapter):
    """Freezing changes no gradient of the adapter, also where it passes all frozen blocks."""
    x = torch.randn(2, 3, 64, 48)
    expected = gradients(small(), x)
    model = small(encoder=encoder, **adapter)
    found = gradients(model, x)
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert grad.abs().max() > 1e-3, name
        assert_close(found[name], grad)
    assert found['interactions.0.injector.gamma'].abs().sum() > 0
    for block in model.encoder.blocks[: max(model.encoder.frozen_stages, 0)]:
        assert all(p.grad is None for p in block.parameters())


def test_drop_path_is_recomputed_with_the_same_draws():
    x = torch.randn(8, 3, 32, 32)
    encoder = dict(drop_path_rate=0.5)
    expected = gradients(small(encoder=encoder), x, False)
    again = small(encoder=encoder, grad_checkpointing=True)
    for name, grad in gradients(again, x, False).items():
        assert_close(grad, expected[name])
    without = gradients(small(), x, False)['level_embed']
    assert relative_error(without, expected['level_embed']) > 0.01


def test_recomputing_keeps_less():
    kept = []
    for again in (False, True):
        model = small(encoder=dict(frozen=True), grad_checkpointing=again).train()
        count = Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model(torch.randn(1, 3, 64, 64))
        kept.append(count.count)
    assert kept[1]['blocks'] < 0.2 * kept[0]['blocks']
    assert kept[1]['adapter'] < 0.6 * kept[0]['adapter']


class Kept:
    """Counts the tensors that a backward pass would need, by the part that made them."""

    def __init__(self, model: ViTAdapter) -> None:
        self.count: Counter = Counter()
        self.part = 'adapter'
        parts = [('stem', model.encoder.patch_embed)]
        parts += [('blocks', block) for block in model.encoder.blocks]
        for part, module in parts:
            module.register_forward_pre_hook(lambda *_, part=part: setattr(self, 'part', part))
            module.register_forward_hook(lambda *_: setattr(self, 'part', 'adapter'))

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        self.count[self.part] += 1
        return tensor


@pytest.mark.parametrize('injection', [True, False])
def test_what_a_frozen_encoder_keeps(injection):
    model = small(encoder=dict(frozen=True), injection=injection).train()
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
        outs = model(torch.randn(1, 3, 64, 64))
    assert kept.count['stem'] == 0
    assert (kept.count['blocks'] > 0) == injection
    assert kept.count['adapter'] > 0
    sum(out.mean() for out in outs).backward()
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert {p.dtype for p in model.encoder.parameters()} == {torch.bfloat16}
    for name, parameter in model.named_parameters():
        if not name.startswith('encoder.'):
            assert parameter.grad is not None, name


@torch.no_grad()
def test_without_injection_the_encoder_runs_as_alone():
    model = small(encoder=dict(frozen=True), injection=False).eval()
    x = torch.randn(1, 3, 64, 64)
    _, c, places = model.prior(x)
    with torch.autocast('cpu', torch.float16):  # its own precision all the same
        *_, (tokens, _) = model.interact(x, c, places)
    assert tokens.dtype == torch.bfloat16
    assert torch.equal(tokens.float(), model.encoder.forward_features(x))
    assert not any('injector' in name for name in model.state_dict())


@torch.no_grad()
@pytest.mark.parametrize('frozen', [True, False])
def test_half_precision_stays_near(frozen):
    x = torch.randn(2, 3, 64, 64)
    exact = small().eval()(x)
    half = small(encoder=dict(frozen=frozen)).eval()
    with torch.autocast('cpu', torch.bfloat16):
        outs = half(x)
    for out, expected in zip(outs, exact, strict=True):
        assert out.dtype == torch.float32
        assert (out - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    ('table', 'key', 'frozen'),
    [
        ('D_layer_decay_mmdetseg_mmsegmentation', 'internvit_adapter', True),
        ('D_layer_decay_vitadapter_segmentation', 'vitadapter', False),
    ],
)
def test_rates_and_decay_are_the_authors(table, key, frozen):
    reference = load_meta(table)[key]
    config = reference['backbone_config']
    arch = {k: config[k] for k in ('embed_dim', 'num_heads', 'depth', 'img_size')}
    arch.update(patch_size=16, qkv_bias=not frozen, qk_norm=frozen)
    arch.update(norm='rms' if frozen else 'layer')
    model = nn.Module()
    model.backbone = ViTAdapter(
        dict(arch=arch, frozen=frozen),
        norm='layer' if frozen else 'sync_bn',
        deform_num_heads=config['deform_num_heads'],
        conv_inplane=config['conv_inplane'],
    )
    constructor = LayerDecayOptimWrapperConstructor(
        dict(
            optimizer=dict(type='AdamW', lr=reference['base_lr'], weight_decay=reference['base_wd'])
        ),
        dict(layer_decay_rate=reference['layer_decay_rate'], decay_positions=True),
    )
    names = {p: n for n, p in model.named_parameters()}
    found = {
        names[p].replace('.encoder.', '.'): (group['lr'], group['weight_decay'])
        for group in constructor(model).optimizer.param_groups
        for p in group['params']
    }
    expected = {
        name: (group['lr'], group['weight_decay'])
        for group in reference['groups_in_order']
        for name in group['param_names']
        if name.startswith('backbone.')
    }
    if not frozen:
        expected = {re.sub(r'gamma([12])$', r'ls\1.gamma', k): v for k, v in expected.items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name


def test_registered():
    cfg = dict(encoder=dict(type='mmdet_seg.InternViT', arch=ARCH), conv_inplane=8)
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert isinstance(ROOT.build(dict(type='mmdet_seg.ViTAdapter', **cfg)), ViTAdapter)
        assert isinstance(ROOT.build(dict(type='ViTAdapter', **cfg)), ViTAdapter)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(interaction_indexes=[[0, 1], [3, 3]]), r'are not .* None makes \[\[0, 0\],'),
        (dict(interaction_indexes=[[0, 4]]), 'end before block 4'),
        (dict(interaction_indexes=[]), 'interaction_indexes'),
        (dict(num_interactions=0), 'num_interactions=0'),
        (dict(vit_feature='all'), "vit_feature='all' is not one of"),
        (dict(vit_feature='each', num_interactions=2), 'there are 2'),
        (dict(norm='bn'), "norm='bn' is not one of"),
        (dict(deform_num_heads=5), 'deform_num_heads=5 does not divide the 16 channels'),
        (dict(out_indices=(1, 4)), r'out_indices=\[1, 4\]'),
    ],
)
def test_mistakes_answer_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        ViTAdapter(dict(arch=ARCH), conv_inplane=8, **kwargs)
    assert '\n' not in str(error.value)


def test_blocks_that_no_output_depends_on_do_not_train():
    model = small(interaction_indexes=[[0, 0], [1, 2]])
    assert not any(p.requires_grad for p in model.encoder.blocks[3].parameters())
    grads = gradients(model, torch.randn(1, 3, 32, 32), adapter_only=False)
    assert all(g is not None for n, g in grads.items() if not n.startswith('encoder.blocks.3.'))


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_adapter_takes_any_size():
    model = small(encoder=dict(frozen=True, dtype='fp32'), num_interactions=2).eval()
    rows, columns = (16 * torch.export.Dim(name, min=2) for name in ('rows', 'columns'))
    shapes = ({0: torch.export.Dim('batch', min=1), 2: rows, 3: columns},)
    x = torch.zeros(2, 3, 80, 112)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False).module()
    for size in ((64, 64), (96, 128), (48, 80)):
        x = torch.randn(1, 3, *size)
        for out, expected in zip(program(x), model(x), strict=True):
            assert_close(out, expected)
