"""Checkpoints of ViT-Adapters: the original's, InternViT-Adapter's and ours."""

import re

import pytest
import torch
from safetensors.torch import save_file

from mmdet_seg.backbones import InternViT
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.necks import ViTAdapter
from mmdet_seg.registry import MODELS
from tests.golden_data import assert_close, load_case, load_meta
from tests.test_necks.adapter_cases import arguments_of, build, encoder_of
from tests.test_segmentors import golden_models

CASES = ('N_eps_internvit_adapter', 'C_vitadapter_window')


def from_file(case, source, **encoder) -> ViTAdapter:
    original = case.name.startswith('C_vitadapter')
    config = case.meta['config']
    model = ViTAdapter(
        encoder_of(config, original) | encoder,
        **arguments_of(config, original),
        init_cfg=dict(type='Pretrained', checkpoint=str(source)),
    )
    model.init_weights()
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('form', ['bare', 'module', 'segmentor', 'safetensors', 'ours'])
def test_every_form_loads(name, form, tmp_path):
    case = load_case(name)
    state = dict(case.state_dict)
    path = tmp_path / 'adapter.pth'
    if form == 'safetensors':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
    elif form == 'ours':
        model = build(case)
        torch.save(
            {'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, path
        )
    else:
        below = {f'backbone.{k}': v for k, v in state.items()} | {'head.bias': torch.ones(2)}
        torch.save(
            dict(bare=state, module={'module': state}).get(form, {'state_dict': below}), path
        )
    model = from_file(case, path)
    for i, out in enumerate(model(case.inputs['x'])):
        assert_close(out, case.outputs[f'f.{i}'])


def test_every_key_is_used_and_every_tensor_filled():
    for name in CASES:
        case = load_case(name)
        model = build(case)
        own = {k.removeprefix('encoder.'): v for k, v in model.state_dict().items()}
        theirs = {
            re.sub(r'gamma([12])$', r'ls\1.gamma', k) if 'blocks' in k else k: v
            for k, v in case.state_dict.items()
        }
        assert own.keys() == theirs.keys()
        for key, value in own.items():
            expected = theirs[key]
            assert torch.equal(value, expected[:, 1:] if key == 'pos_embed' else expected), key


def test_without_layer_scale_it_is_one():
    case = load_case('C_vitadapter')
    assert not any('gamma' in k for k in case.state_dict if 'blocks' in k)
    for block in build(case).encoder.blocks:
        assert torch.equal(block.ls1.gamma, torch.ones_like(block.ls1.gamma))


def test_another_size_is_resampled(tmp_path):
    case = load_case('N_eps_internvit_adapter')
    path = tmp_path / 'adapter.pth'
    torch.save(case.state_dict, path)
    model = from_file(case, path, img_size=112, patch_size=14)
    alone = InternViT.from_pretrained(path, num_heads=4, img_size=112, patch_size=14)
    assert model.encoder.pos_embed.shape == (1, 64, 32)
    assert torch.equal(model.encoder.pos_embed, alone.pos_embed)
    assert torch.equal(model.encoder.patch_embed.proj.weight, alone.patch_embed.proj.weight)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('up.weight'), r'1 missing \(up.weight\)'),
        (lambda s: s.update({'blocks.0.attn.bias_table': s['up.bias']}), 'unexpected .*bias_table'),
        (lambda s: s.update({'spm.fc1.bias': s['spm.fc1.bias'][:3]}), 'misshapen .*spm.fc1.bias'),
        (lambda s: s.pop('level_embed'), 'has no ViT-Adapter in it'),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    case = load_case('N_eps_internvit_adapter')
    state = dict(case.state_dict)
    change(state)
    torch.save(state, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=message) as error:
        from_file(case, tmp_path / 'x.pth')
    assert '\n' not in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match='no such checkpoint of a ViT-Adapter'):
        from_file(load_case('N_eps_internvit_adapter'), '/nowhere.pth')


def test_the_encoder_in_a_frozen_one_is_rounded_once(tmp_path):
    case = load_case('N_eps_internvit_adapter')
    torch.save(case.state_dict, tmp_path / 'x.pth')
    model = from_file(case, tmp_path / 'x.pth', frozen=True)
    weight = model.encoder.blocks[0].attn.qkv.weight
    assert torch.equal(weight, case.state_dict['blocks.0.attn.qkv.weight'].bfloat16())
    assert not weight.requires_grad
    assert model.interactions[0].injector.gamma.dtype == torch.float32


def test_a_segmentor_of_the_authors_loads_as_a_file(tmp_path):
    case = load_case('M_seg_adapter_upernet')
    model = golden_models.build(case.meta['config'], 'upernet_adapter_internvit')
    path = tmp_path / 'theirs.pth'
    torch.save({'module': case.state_dict}, path)
    load_weights(model, path)
    x = case.inputs['x']
    with torch.no_grad():
        assert_close(model.decode_head(model.extract_feat(x)), case.outputs['decode_logits'])
    torch.save({'module': {**case.state_dict, 'backbone.spm.fc5.bias': torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r'backbone\.spm\.fc5\.bias'):
        load_weights(model, path)


def test_the_published_6b_has_the_authors_names_and_count():
    """One row of the position table aside, which is the class token's and unused there."""
    reference = load_meta('K_keys_internvit_adapter_6b_512')
    cfg = load_recipe('upernet_adapter_internvit_frozen', arch='6b-224px', data='ade20k')
    with torch.device('meta'):
        model = MODELS.build(cfg.model.backbone)
    own = {k.removeprefix('encoder.'): list(v.shape) for k, v in model.state_dict().items()}
    theirs = dict(reference['keys'])
    assert theirs['pos_embed'] == [1, 1 + 32 * 32, 3200]
    assert own['pos_embed'] == [1, 32 * 32, 3200]
    own['pos_embed'] = theirs['pos_embed']
    assert own == theirs
    assert len(own) == reference['num_keys']
    total = sum(p.numel() for p in model.parameters())
    assert total + 3200 == reference['num_elements']
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if not n.startswith('encoder.')}
