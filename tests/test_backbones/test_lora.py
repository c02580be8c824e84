"""LoRA: peft's adapters on the encoder's linear layers, and the weights that they become."""

import copy
import sys

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmdet_seg.backbones import InternViT, get_arch, merge_lora
from mmdet_seg.backbones.checkpoint import open_checkpoint
from mmdet_seg.backbones.checkpoint_writer import LAYOUTS, save_encoder
from mmdet_seg.backbones.conversion import convert

ARCH = get_arch('tiny')
PLAIN = get_arch('tiny', norm='layer', qk_norm=False, qkv_bias=True)  # every layout holds it
LAYERS = ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')


def plain_and_adapted(arch=ARCH, dtype='fp32', **kwargs) -> tuple[InternViT, InternViT]:
    """Two encoders with the same weights, of which the second has fresh adapters."""
    torch.manual_seed(0)
    kwargs.setdefault('lora', dict(rank=4))
    shared = {k: v for k, v in kwargs.items() if k != 'lora'}
    plain = InternViT(arch, dtype=dtype, **shared)
    torch.manual_seed(0)
    return plain, InternViT(arch, dtype=dtype, **kwargs)


def disturb(encoder: InternViT) -> InternViT:
    """Give the adapters an effect, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if 'lora_B' in name:
                value.normal_(std=0.2)
    return encoder


def images(size: int = 56) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def adapter_names(blocks) -> set[str]:
    return {
        f'blocks.{i}.{layer}.lora_{part}.default.weight'
        for i in blocks
        for layer in LAYERS
        for part in 'AB'
    }


def trained(encoder: nn.Module) -> set[str]:
    return {n for n, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('arch', [ARCH, PLAIN])
def test_fresh_adapters_change_no_bit(arch, dtype):
    plain, adapted = plain_and_adapted(arch, dtype, out_indices=(1, 3))
    # oneDNN takes GELU into the layer before it, unless that has an adapter.
    for grad in (False, True):
        with torch.set_grad_enabled(grad), torch.backends.mkldnn.flags(enabled=False):
            for a, b in zip(plain(images()), adapted(images()), strict=True):
                assert torch.equal(a, b)
    with torch.no_grad():
        for a, b in zip(plain(images()), adapted(images()), strict=True):
            near = 1e-5 if dtype == 'fp32' else 0.05
            torch.testing.assert_close(a, b, rtol=near, atol=near)
    before = adapted(images())[0]
    assert (disturb(adapted)(images())[0] - before).abs().max() > 1e-3  # and then they count


def test_only_adapters_train_and_only_where_an_output_depends_on_them():
    encoder = InternViT('tiny', out_indices=(0, 2), lora=dict(rank=4))
    assert trained(encoder) == adapter_names(range(3))
    assert trained(InternViT('tiny', lora=dict(), frozen_stages=2)) == adapter_names((2, 3))
    some = InternViT('tiny', lora=dict(targets=('qkv', 'fc2')))
    assert trained(some) == {n for n in adapter_names(range(4)) if 'qkv' in n or 'fc2' in n}
    held = {n: p.dtype for n, p in encoder.named_parameters()}
    assert {d for n, d in held.items() if n in adapter_names(range(3))} == {torch.float32}
    assert {d for n, d in held.items() if 'lora' not in n} == {torch.bfloat16}


@pytest.mark.parametrize(
    ('name', 'adapters'), [('6b-224px', 39_321_600), ('300m-448px-v2-5', 6_291_456)]
)
def test_numbers_of_parameters(name, adapters):
    """r * (in + out) for each of the four layers, at the true size."""
    arch = get_arch(name)
    with torch.device('meta'):
        encoder = InternViT(name, lora=dict(rank=16))
        plain = InternViT(name)
    D, M = arch.embed_dim, arch.mlp_dim
    expected = arch.depth * 16 * ((D + 3 * D) + (D + D) + 2 * (D + M))
    found = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert found == expected == adapters
    assert sum(p.numel() for p in encoder.parameters()) - found == sum(
        p.numel() for p in plain.parameters()
    )
    assert all(t.is_meta for t in encoder.state_dict().values())


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(dtype='fp32'),
        dict(dtype='bf16'),
        dict(dtype='fp32', grad_checkpointing=True, drop_path_rate=0.3),
        dict(dtype='fp32', frozen_stages=2, drop_path_rate=0.3),
        dict(dtype='fp32', lora=dict(rank=2, alpha=3, dropout=0.1)),
    ],
)
@pytest.mark.parametrize('autocast', [False, True])
def test_a_step_changes_adapters_and_nothing_else(kwargs, autocast):
    encoder = disturb(InternViT('tiny', **{'lora': dict(rank=4), **kwargs})).train()
    before = copy.deepcopy(encoder.state_dict())
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        encoder(images().repeat(8, 1, 1, 1))[
            0
        ].square().mean().backward()  # a path is dropped in some
    optimizer.step()
    changed = {n for n, v in encoder.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == trained(encoder)
    frozen = max(encoder.frozen_stages, 0)
    assert [b.training for b in encoder.blocks] == [i >= frozen for i in range(4)]


def test_checkpointing_gives_the_same_gradients():
    grads = []
    for flag in (False, True):
        _, encoder = plain_and_adapted(grad_checkpointing=flag, drop_path_rate=0.3)
        disturb(encoder).train()
        torch.manual_seed(1)  # the same paths are dropped
        encoder(images())[0].square().sum().backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == adapter_names(range(4))
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


@pytest.mark.parametrize('alpha', [None, 4, 12])
def test_merged_equals_unmerged_and_pefts_own(alpha):
    from peft import LoraConfig, LoraModel

    plain, encoder = plain_and_adapted(lora=dict(rank=4, alpha=alpha))
    disturb(encoder).eval()
    expected = encoder.forward_features(images())
    names = [f'blocks.{i}.{layer}' for i in range(4) for layer in LAYERS]
    config = LoraConfig(r=4, lora_alpha=alpha or 8, target_modules=names)
    theirs = LoraModel(plain.eval(), config, 'default')
    own = encoder.state_dict()
    theirs.model.load_state_dict({k: v for k, v in own.items() if k != 'lora_scale'})
    torch.testing.assert_close(theirs.model.forward_features(images()), expected)
    reference = theirs.merge_and_unload().state_dict()

    copied = copy.deepcopy(encoder)
    merged = merge_lora(encoder)
    assert merged is encoder
    torch.testing.assert_close(merged.forward_features(images()), expected, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == InternViT('tiny').state_dict().keys() == reference.keys()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, reference[name], rtol=1e-6, atol=1e-7)
    assert merge_lora(merged) is merged
    assert not trained(merged)
    torch.testing.assert_close(copied.forward_features(images()), expected)


def test_weights_in_half_precision_are_rounded_once():
    encoder = disturb(InternViT('tiny', lora=dict(rank=4)))
    layer = encoder.blocks[0].attn.qkv
    down, up = layer.lora_A['default'].weight.double(), layer.lora_B['default'].weight.double()
    expected = (layer.base_layer.weight.double() + 2 * up @ down).float().bfloat16()
    merged = merge_lora(encoder).blocks[0].attn.qkv.weight
    assert merged.dtype == torch.bfloat16
    assert (merged != expected).float().mean() < 1e-3  # ties of the float32 sum


@pytest.mark.parametrize('layout', LAYOUTS)
def test_weights_of_every_layout_load_below_the_adapters(layout, tmp_path):
    torch.manual_seed(3)
    plain = InternViT(PLAIN)
    source = tmp_path / {'pth': 'x.pth', 'own': 'x.safetensors'}.get(layout, 'folder')
    save_encoder(plain.state_dict(), PLAIN, source, layout)
    built = InternViT(
        PLAIN, lora=dict(), dtype='fp32', init_cfg=dict(type='Pretrained', checkpoint=str(source))
    )
    with pytest.raises(ValueError, match='never loaded'):
        built(images())
    Holder(built).init_weights()
    loaded = InternViT.from_pretrained(source, num_heads=2, lora=dict(), dtype='fp32')
    half = InternViT.from_pretrained(source, num_heads=2, lora=dict())
    assert half.pos_embed.dtype == torch.bfloat16
    for encoder in (built, loaded):
        assert not any(t.is_meta for t in encoder.state_dict().values())
        assert trained(encoder) == adapter_names(range(4))
        state = encoder.state_dict()
        assert all(not v.any() for n, v in state.items() if 'lora_B' in n)
        assert all(v.std() > 0 for n, v in state.items() if 'lora_A' in n)
        assert state['lora_scale'] == 2
        for name, value in merge_lora(encoder).state_dict().items():
            assert torch.equal(value, plain.state_dict()[name]), name


class Holder(BaseModule):
    """A model around an encoder whose own init would touch every linear layer."""

    def __init__(self, encoder: InternViT) -> None:
        super().__init__(init_cfg=dict(type='Normal', layer='Linear', std=1.0))
        self.backbone = encoder


def test_an_enclosing_init_spares_the_adapters():
    encoder = InternViT('tiny', lora=dict())
    Holder(encoder).init_weights()
    assert not any(p.any() for n, p in encoder.named_parameters() if 'lora_B' in n)


def test_state_dicts_round_trip_and_plain_names_load():
    encoder = disturb(InternViT('tiny', lora=dict(rank=4)))
    again = InternViT('tiny', lora=dict(rank=4), init_cfg=dict(type='Pretrained', checkpoint='x'))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(images())[0], encoder(images())[0])

    plain, adapted = plain_and_adapted(lora=dict(rank=4))
    start = disturb(InternViT('tiny', lora=dict(rank=4), dtype='fp32'))
    kept = start.state_dict()['blocks.0.attn.qkv.lora_B.default.weight'].clone()
    model = nn.ModuleDict({'backbone': start})
    state = {f'backbone.{n}': v for n, v in plain.state_dict().items()}
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) == {
        f'backbone.{n}' for n in {*adapter_names(range(4)), 'lora_scale'}
    }
    assert torch.equal(start.state_dict()['blocks.0.attn.qkv.lora_B.default.weight'], kept)
    assert torch.equal(
        start.state_dict()['blocks.2.mlp.fc1.base_layer.bias'],
        adapted.state_dict()['blocks.2.mlp.fc1.base_layer.bias'],
    )
    assert len(state) == len(plain.state_dict())  # the caller's own is left alone
    with pytest.raises(ValueError, match=r'alpha / rank = 2, the encoder has 1; build'):
        InternViT('tiny', lora=dict(rank=4, alpha=4)).load_state_dict(encoder.state_dict())


def test_layer_depths():
    encoder = InternViT('tiny', lora=dict())
    depths = {n: encoder.get_layer_depth(f'backbone.{n}', 'backbone.')[0] for n in trained(encoder)}
    assert all(depth == int(name.split('.')[1]) + 1 for name, depth in depths.items())


@pytest.mark.parametrize('grad', [False, True])
def test_a_compiled_block_gives_the_same(grad):
    block = disturb(InternViT('tiny', lora=dict(rank=4), dtype='fp32')).blocks[0].eval()
    compiled = torch.compile(block, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 17, 32)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(x, (4, 4)), block(x, (4, 4)))


@pytest.mark.parametrize(
    ('lora', 'message'),
    [
        (dict(rnak=4), 'lora has rnak; it takes rank, alpha, dropout, targets'),
        (dict(rank=0), 'lora.rank=0 is not a positive whole number'),
        (dict(rank=4, alpha=0), 'lora.alpha=0 is not positive'),
        (dict(dropout=1.0), r'lora.dropout=1.0 is not in \[0, 1\)'),
        (dict(targets=('qkv', 'fc3')), 'not a list of qkv, proj, fc1, fc2'),
    ],
)
def test_mistakes_answer_in_one_line(lora, message):
    with pytest.raises(ValueError, match=message) as caught:
        InternViT('tiny', lora=lora)
    assert '\n' not in str(caught.value)


def test_what_excludes_lora():
    with pytest.raises(ValueError, match='frozen=True and lora exclude each other'):
        InternViT('tiny', lora=dict(), frozen=True)
    with pytest.raises(ValueError, match='lora has no block to adapt'):
        InternViT('tiny', out_indices=1, lora=dict(), frozen_stages=2)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ValueError, match=r"pip install 'mmdet_seg\[lora\]'"):
        InternViT('tiny', lora=dict())


# Checkpoints of runs.


def run_checkpoint(folder, state, **meta) -> str:
    path = folder / 'iter_2.pth'
    state = {f'backbone.{n}': v for n, v in state.items()}
    torch.save({'state_dict': {**state, 'decode_head.weight': torch.ones(2)}, 'meta': meta}, path)
    return str(path)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_runs_checkpoint_becomes_a_plain_encoder(layout, tmp_path):
    encoder = disturb(InternViT(PLAIN, lora=dict(rank=4, alpha=4), dtype='fp32'))
    source = run_checkpoint(tmp_path, encoder.state_dict())
    out = tmp_path / {'pth': 'x.pth', 'own': 'x.safetensors'}.get(layout, 'folder')
    report = convert(source, out, layout, arch_overrides={'num_heads': 2})
    assert 'LoRA adapters merged into 16 of them; not of the encoder' in report.summary()
    assert 'lora' not in str(open_checkpoint(out, {'num_heads': 2}).other_keys)
    again = InternViT.from_pretrained(out, num_heads=2)
    direct = InternViT.from_pretrained(source, num_heads=2)
    assert 'merged into 16' in direct.load_report.summary()
    expected = merge_lora(encoder).state_dict()
    for found in (again.state_dict(), direct.state_dict()):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert torch.equal(value, expected[name]), name


def test_adapters_in_bf16_weights_can_be_kept_exactly(tmp_path):
    encoder = disturb(InternViT('tiny', lora=dict(rank=4)))
    source = run_checkpoint(tmp_path, encoder.state_dict())
    convert(source, tmp_path / 'kept.safetensors', 'own')
    convert(source, tmp_path / 'wide.safetensors', 'own', dtype='fp32')
    kept = open_checkpoint(tmp_path / 'kept.safetensors')
    wide = InternViT.from_pretrained(tmp_path / 'wide.safetensors')
    assert set(kept.dtypes.values()) == {torch.bfloat16}
    wide_merged = merge_lora(encoder.float()).state_dict()
    for name, value in wide.state_dict().items():
        assert torch.equal(value, wide_merged[name])
        assert torch.equal(kept.read(name), value.bfloat16())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('lora_scale'), 'does not say their alpha / rank'),
        (lambda s: s.pop('blocks.0.attn.qkv.lora_A.default.weight'), 'unexpected keys'),
        (lambda s: s.pop('blocks.0.attn.qkv.base_layer.weight'), 'unexpected keys'),
        (
            lambda s: s.update({'blocks.0.attn.qkv.lora_A.x.weight': torch.ones(4, 32)}),
            'unexpected keys',
        ),
        (
            lambda s: s.update({'blocks.0.attn.qkv.lora_A.default.weight': torch.ones(3, 32)}),
            'a LoRA adapter that does not fit',
        ),
        (
            lambda s: s.update({'blocks.0.attn.qkv.weight': torch.ones(96, 32)}),
            'unexpected keys',
        ),
        (
            lambda s: [s.pop(n) for n in list(s) if '.lora_' not in n],
            'has LoRA adapters and not the encoder beneath them',
        ),
    ],
)
def test_broken_adapters_are_refused(change, message, tmp_path):
    state = dict(InternViT('tiny', lora=dict(rank=4)).state_dict())
    change(state)
    with pytest.raises(ValueError, match=message) as caught:
        open_checkpoint(run_checkpoint(tmp_path, state))
    assert '\n' not in str(caught.value)
