"""The encoder against the authors' outputs, and what it promises beside them."""

import re
import shutil
import time

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from torch import nn

from mmdet_seg.backbones import ARCHS, InternViT, get_arch
from mmdet_seg.backbones.variants import even_taps
from mmdet_seg.necks import FeaturePyramid
from tests.golden_data import assert_close, golden_names, load_case, relative_error
from tests.test_backbones.checkpoint_cases import authors_state

ENCODERS = ('A_internvit_6b_like', 'A_internvit_300m_like', 'A_internvit_mixed')
SEG = ('B_seg_nofpn', 'B_seg_fpn', 'B_seg_fpn_finalnorm')
EPS = ('N_eps_internvit_6b_like', 'N_eps_internvit_300m_like')


def arch_of(config: dict) -> dict:
    """Fields of ``Arch`` from the authors' remote-code configuration."""
    return dict(
        embed_dim=config['hidden_size'],
        depth=config['num_hidden_layers'],
        num_heads=config['num_attention_heads'],
        mlp_ratio=config['intermediate_size'] / config['hidden_size'],
        patch_size=config['patch_size'],
        img_size=config['image_size'],
        qkv_bias=config['qkv_bias'],
        qk_norm=config['qk_normalization'],
        norm={'rms_norm': 'rms', 'layer_norm': 'layer'}[config['norm_type']],
        norm_eps=config['layer_norm_eps'],
    )


def golden_encoder(case, **kwargs) -> InternViT:
    encoder = InternViT(arch_of(case.meta['config']), **kwargs).eval()
    encoder.load_state_dict(authors_state(case))
    return encoder


@pytest.mark.parametrize('backend', ['sdpa', 'eager', 'auto'])
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('name', [*ENCODERS, *EPS])
def test_tokens_equal_the_authors(name, backend, grad):
    case = load_case(name)
    encoder = golden_encoder(case, attention=backend)
    with torch.set_grad_enabled(grad):
        for key, x in case.inputs.items():
            out = {
                'pixel_values': 'last_hidden_state',
                'resized_pixel_values': 'resized.last_hidden_state',
            }.get(key, f'{key}.last_hidden_state')
            assert_close(encoder.forward_features(x), case.outputs[out])


@pytest.mark.parametrize('name', ENCODERS)
def test_every_block_equals_the_authors(name):
    case = load_case(name)
    encoder = golden_encoder(case, out_indices=range(case.meta['config']['num_hidden_layers']))
    x = case.inputs['pixel_values']
    tokens, grid = encoder.stem(x)
    assert_close(tokens, case.outputs['embeddings'])
    states = list(encoder.run_blocks(tokens, grid))
    for i, (state, maps) in enumerate(zip(states, encoder(x), strict=True)):
        expected = case.outputs[f'hidden_states.{i + 1}']
        assert_close(state, expected)
        assert_close(maps.flatten(2).transpose(1, 2), expected[:, 1:])


@pytest.mark.parametrize('name', [*SEG, 'N_eps_seg_fpn_finalnorm'])
def test_maps_and_pyramid_equal_the_authors(name):
    case = load_case(name)
    config = case.meta['config']
    fields = ('embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'patch_size', 'img_size')
    encoder = InternViT({k: config[k] for k in fields if k in config}, config['out_indices']).eval()
    own = encoder.state_dict().keys()
    encoder.load_state_dict({k: v for k, v in case.state_dict.items() if k in own})
    maps = encoder(case.inputs['x'])
    if config['with_fpn']:
        spec = encoder.output_spec()
        neck = FeaturePyramid(
            [s.channels for s in spec],
            [s.stride for s in spec],
            final_norm=config['with_final_norm'],
        )
        rest = {k: v for k, v in case.state_dict.items() if k not in own}
        assert rest.keys() == neck.state_dict().keys()
        neck.load_state_dict(rest)
        maps = neck(maps)
    for i, out in enumerate(maps):
        assert_close(out, case.outputs[f'f.{i}'])


def test_the_whole_golden_set_is_named_here():
    named = {*ENCODERS, *EPS}
    at_hand = {*golden_names('A_internvit'), *golden_names('N_eps_internvit_')}
    assert at_hand - {'N_eps_internvit_adapter'} <= named


@pytest.mark.parametrize(
    ('name', 'count'),
    [
        ('6b-224px', 5_902_793_600),
        ('6b-448px-v1-0', 5_905_251_200),
        ('6b-448px-v1-2', 5_536_496_000),
        ('6b-448px-v1-5', 5_536_496_000),
        ('6b-448px-v2-5', 5_536_496_000),
        ('300m-448px', 304_012_288),
        ('300m-448px-v2-5', 304_012_288),
    ],
)
def test_published_sizes(name, count):
    start = time.perf_counter()
    with torch.device('meta'):
        encoder = InternViT(name)
    assert time.perf_counter() - start < 5
    assert sum(p.numel() for p in encoder.parameters()) == count
    assert all(p.is_meta for p in encoder.parameters())


def test_weights_that_a_checkpoint_brings_are_not_written_first():
    start = time.perf_counter()
    encoder = InternViT('6b-224px', frozen=True, init_cfg=dict(type='Pretrained', checkpoint='x'))
    assert time.perf_counter() - start < 5  # initialising 5.9 B numbers takes minutes
    with pytest.raises(ValueError, match="weights of 'x' were never loaded"):
        encoder(torch.zeros(1, 3, 28, 28))


def test_contract():
    encoder = InternViT('tiny', out_indices=(1, -1), grad_checkpointing=True)
    x = torch.randn(2, 3, 42, 70)
    maps = encoder(x)
    assert encoder.out_indices == (1, 3)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 3, 5)] * 2
    assert encoder.output_spec() == [(32, 14)] * 2
    assert encoder.forward_features(x).shape == (2, 1 + 15, 32)
    assert encoder.num_prefix_tokens == 1


def test_stops_after_the_last_block_that_is_needed():
    encoder = InternViT('tiny', out_indices=1)
    ran = []
    for i, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    encoder(torch.randn(1, 3, 28, 28))
    assert ran == [0, 1]
    assert not any(p.requires_grad for p in encoder.blocks[2:].parameters())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='6b-448px-v25'), 'Did you mean 6b-448px-v2-5'),
        (dict(arch='tiny', out_indices=(1, 4)), 'it has 4: -4 .. 3'),
        (dict(arch='tiny', out_indices=(3, 1)), 'not ascending'),
        (dict(arch='tiny', out_indices=()), 'names a block'),
        (dict(arch='tiny', img_size=60), 'img_size=60 is not a multiple of patch_size=14; '),
        (dict(arch='tiny', frozen_stages=5), 'frozen_stages=5 is not in -1 .. 4'),
        (dict(arch='tiny', attention='fast'), 'auto, sdpa, flash_attn, eager'),
        (dict(arch='tiny', attention='flash_attn'), r'pip install mmdet_seg\[flash\]'),
        (dict(arch='tiny', window_size=(2, 2)), 'one window per block'),
        (dict(arch='tiny', window_size=-1), 'negative'),
        (dict(arch='tiny', dtype='bf8'), 'bf16, fp16, fp32'),
        (dict(arch=dict(embed_dim=30, depth=2, num_heads=4)), 'not a multiple of num_heads=4'),
        (dict(arch=dict(embed_dim=30, depth=2)), 'arch has no num_heads'),
        (dict(arch=dict(embed_dim=32, depth=2, heads=4)), 'heads: not a field of arch'),
    ],
)
def test_mistakes_answer_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        InternViT(**kwargs)
    assert '\n' not in str(caught.value)


def test_nearest_img_size_is_named():
    with pytest.raises(ValueError, match='nearest that fits: 56'):
        get_arch('tiny', img_size=60)


def test_input_that_is_no_multiple_of_the_patch():
    with pytest.raises(ValueError, match=r'50x61 .* patch_size=14; nearest that fits: 56x56'):
        InternViT('tiny')(torch.zeros(1, 3, 50, 61))


class Holder(BaseModule):
    """A model around an encoder whose own init would touch every linear layer."""

    def __init__(self, encoder: InternViT) -> None:
        super().__init__(init_cfg=dict(type='Normal', layer='Linear', std=1.0))
        self.backbone = encoder
        self.head = nn.Linear(2, 2)


def test_init_weights_never_overwrites_loaded_weights(tmp_path):
    source = tmp_path / 'encoder.pth'
    torch.manual_seed(3)
    reference = InternViT('tiny').state_dict()
    torch.save({'module': reference}, source)
    built = InternViT('tiny', init_cfg=dict(type='Pretrained', checkpoint=str(source)))
    for encoder in (InternViT.from_pretrained(source, num_heads=2), built):
        model = Holder(encoder)
        model.init_weights()
        model.init_weights()
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, reference[name]), name
    assert built.load_report.num_loaded == len(reference)


def test_frozen_means_frozen():
    encoder = InternViT('tiny', frozen=True, drop_path_rate=0.9, grad_checkpointing=True)
    model = nn.Sequential(encoder).train()
    assert not encoder.training
    assert not any(m.training for m in encoder.modules())
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in encoder.parameters())
    x = torch.randn(1, 3, 28, 28, requires_grad=True)
    first, second = model(x)[0], model(x)[0]
    assert first.dtype == torch.float32
    assert not first.requires_grad
    assert torch.equal(first, second)
    with torch.autocast('cpu', torch.float16):  # leaves the encoder's precision alone
        assert torch.equal(model(x)[0], first)
    wide = InternViT('tiny', frozen=True, dtype='fp32')
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


def test_frozen_stages():
    encoder = InternViT('tiny', out_indices=(1, 3), frozen_stages=2, drop_path_rate=0.5).train()
    assert [b.training for b in encoder.blocks] == [False, False, True, True]
    encoder(torch.randn(1, 3, 28, 28))[-1].sum().backward()
    grads = {n: p.grad is not None for n, p in encoder.named_parameters()}
    assert not any(v for n, v in grads.items() if not re.match(r'blocks\.[23]', n))
    assert all(v for n, v in grads.items() if re.match(r'blocks\.[23]', n))
    stem_only = InternViT('tiny', frozen_stages=0)
    assert {n for n, p in stem_only.named_parameters() if not p.requires_grad} == {
        'cls_token',
        'pos_embed',
        'patch_embed.proj.weight',
        'patch_embed.proj.bias',
    }


@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_checkpointing_gives_the_same_gradients(frozen_stages):
    x = torch.randn(2, 3, 28, 42)
    grads = []
    for flag in (False, True):
        torch.manual_seed(0)
        encoder = InternViT(
            'tiny', grad_checkpointing=flag, drop_path_rate=0.3, frozen_stages=frozen_stages
        ).train()
        torch.manual_seed(1)  # the same paths are dropped
        encoder(x)[0].square().sum().backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


def test_checkpointing_stores_less():
    def stored(flag: bool) -> int:
        sizes = []
        pack = lambda t: (sizes.append(t.numel()), t)[1]  # noqa: E731
        encoder = InternViT('tiny', grad_checkpointing=flag).train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            encoder(torch.randn(2, 3, 56, 56))
        return sum(sizes)

    assert stored(True) < stored(False) / 3


def test_drop_path_rises_with_depth_and_only_while_training():
    encoder = InternViT('tiny', drop_path_rate=0.3)
    rates = [getattr(b.drop_path, 'p', 0.0) for b in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    x = torch.randn(8, 3, 28, 28)
    encoder.train()
    assert not torch.equal(encoder(x)[0], encoder(x)[0])
    encoder.eval()
    assert torch.equal(encoder(x)[0], encoder(x)[0])


@pytest.mark.parametrize(('dtype', 'tolerance'), [('bf16', 0.03), ('fp16', 4e-3)])
@pytest.mark.parametrize('backend', ['sdpa', 'eager', 'auto'])
@pytest.mark.parametrize('name', ENCODERS[1:])
def test_half_precision_stays_near(name, backend, dtype, tolerance):
    case = load_case(name)
    encoder = golden_encoder(case, attention=backend, dtype=dtype)
    with torch.no_grad():
        tokens = encoder.forward_features(case.inputs['pixel_values'])
    assert tokens.dtype == torch.float32
    assert relative_error(tokens, case.outputs['last_hidden_state']) < tolerance


@pytest.mark.parametrize('arch', ['tiny', dict(embed_dim=32, depth=2, num_heads=2, qk_norm=False)])
def test_a_window_that_covers_the_grid_is_global(arch):
    torch.manual_seed(0)
    whole = InternViT(arch).eval()
    windowed = InternViT(arch, window_size=4).eval()
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3, 56, 42)
    torch.testing.assert_close(windowed.forward_features(x), whole.forward_features(x))


@pytest.mark.parametrize('num_prefix_tokens', [0, 1])
def test_windows_are_what_they_say(num_prefix_tokens):
    """Each window's patches see their own window (and the class token) and no padding."""
    torch.manual_seed(0)
    arch = get_arch('tiny', depth=1, num_prefix_tokens=num_prefix_tokens)
    encoder = InternViT(arch, window_size=3).eval()
    whole = InternViT(arch).eval()
    whole.load_state_dict(encoder.state_dict())
    K, h, w = num_prefix_tokens, 5, 7
    tokens = torch.randn(2, K + h * w, 32)
    (out,) = encoder.run_blocks(tokens, (h, w))
    maps = tokens[:, K:].view(2, h, w, 32)
    prefix = []
    for top in range(0, h, 3):
        for left in range(0, w, 3):
            part = maps[:, top : top + 3, left : left + 3]
            grid = part.shape[1:3]
            window = torch.cat([tokens[:, :K], part.flatten(1, 2)], dim=1)
            (expected,) = whole.run_blocks(window, tuple(grid))
            got = out[:, K:].view(2, h, w, 32)[:, top : top + 3, left : left + 3]
            torch.testing.assert_close(got.flatten(1, 2), expected[:, K:])
            prefix.append(whole.blocks[0].attn(whole.blocks[0].norm1(window), tuple(grid))[:, :K])
    if K:  # the class token takes the mean of its windows' answers
        block = whole.blocks[0]
        x = tokens[:, :K] + block.ls1.gamma * torch.stack(prefix).mean(0)
        x = x + block.ls2.gamma * block.mlp(block.norm2(x))
        torch.testing.assert_close(out[:, :K], x)


def test_global_blocks():
    encoder = InternViT('tiny', window_size=2, global_blocks=(1, -1))
    assert [b.attn.window for b in encoder.blocks] == [2, 0, 2, 0]


@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
@pytest.mark.parametrize('grad', [False, True])
def test_a_compiled_block_gives_the_same(backend, grad):
    if backend == 'inductor' and not shutil.which('g++'):
        pytest.skip('inductor on CPU needs a C++ compiler')
    block = InternViT('tiny').blocks[0].eval()
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    x = torch.randn(2, 17, 32)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(x, (4, 4)), block(x, (4, 4)))


def test_layer_depths():
    encoder = InternViT('tiny')
    depth = {
        n: encoder.get_layer_depth(f'backbone.{n}', 'backbone.')[0]
        for n in (
            'pos_embed',
            'cls_token',
            'patch_embed.proj.weight',
            'blocks.0.ls1.gamma',
            'blocks.3.mlp.fc1.bias',
            'norm.weight',
        )
    }
    assert list(depth.values()) == [0, 0, 0, 1, 4, 5]
    assert encoder.get_layer_depth('decode_head.conv_seg.weight', 'backbone.') == (5, 6)


def test_even_taps_equal_the_published_ones():
    assert even_taps(48, 4) == (11, 23, 35, 47)
    assert even_taps(45, 4) == (11, 22, 33, 44)
    assert all(even_taps(a.depth, 1) == (a.depth - 1,) for a in ARCHS.values())


@pytest.mark.parametrize('scope', [None, 'mmseg', 'mmengine'])
@pytest.mark.parametrize('kind', ['mmdet_seg.InternViT', 'InternViT'])
def test_any_openmmlab_config_can_name_it(kind, scope):
    cfg = dict(type=kind, arch='tiny', out_indices=(1, 3))
    if scope is None:
        encoder = ROOT.build(cfg)
    else:
        with DefaultScope.overwrite_default_scope(scope):
            encoder = ROOT.build(cfg)
    assert isinstance(encoder, InternViT)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('backend', ['sdpa', 'eager', 'auto'])
def test_cuda_equals_cpu(backend, dtype):
    case = load_case(ENCODERS[1])
    encoder = golden_encoder(case, attention=backend, dtype=dtype).cuda()
    tokens = encoder.forward_features(case.inputs['pixel_values'].cuda()).cpu()
    tolerance = {'fp32': 1e-4, 'bf16': 0.03, 'fp16': 4e-3}[dtype]
    assert relative_error(tokens, case.outputs['last_hidden_state']) < tolerance
