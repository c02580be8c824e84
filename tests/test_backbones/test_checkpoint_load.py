"""What load_encoder does to an encoder, and what it refuses."""

import pytest
import torch

from mmdet_seg.backbones import InternViT, checkpoint_contents
from mmdet_seg.backbones.checkpoint import load_encoder, open_checkpoint
from tests.golden_data import assert_close, golden_path, load_case
from tests.test_backbones.checkpoint_cases import (
    authors_state,
    native_config,
    native_state,
    num_heads,
    write_layout,
    write_pth,
    write_repository,
)

SEG_ARCH = {'embed_dim': 48, 'num_heads': 4, 'mlp_ratio': 2.0}


@pytest.fixture
def case():
    return load_case('N_eps_internvit_6b_like')


def arch_of(case, **changes):
    config = case.meta['config']
    return {
        'embed_dim': config['hidden_size'],
        'depth': config['num_hidden_layers'],
        'num_heads': config['num_attention_heads'],
        'mlp_ratio': config['intermediate_size'] / config['hidden_size'],
        'img_size': config['image_size'],
        **changes,
    }


@pytest.mark.parametrize(
    ('name', 'arch', 'taps'),
    [
        ('B_seg_pretrained', {'depth': 3, 'img_size': 84}, (1, 2)),
        ('B_seg_pretrained_patch16', {'depth': 2, 'img_size': 80, 'patch_size': 16}, (1,)),
    ],
)
def test_resampled_as_the_authors_do_while_loading(name, arch, taps):
    case = load_case(name)
    encoder = InternViT({**SEG_ARCH, **arch}, out_indices=taps)
    report = load_encoder(encoder, open_checkpoint(golden_path(f'{name}.pth')))
    assert any(text.startswith('pos_embed 4x4 -> ') for text in report.resampled)
    state = encoder.state_dict()
    assert_close(state['pos_embed'], case.outputs['pos_embed'], 1e-6)
    kernel = 'patch_embed.proj.weight'
    assert_close(state[kernel], case.outputs[kernel], 1e-6)
    for i, out in enumerate(encoder.eval()(case.inputs['x'])):
        assert_close(out, case.outputs[f'f.{i}'])


def test_golden_converter_file_gives_the_authors_features():
    case = load_case('L_hf2pytorch')
    path = golden_path('L_hf2pytorch.pth')
    for size, kind in ((56, 'same'), (84, 'larger')):
        encoder = InternViT.from_pretrained(path, num_heads=4, img_size=size, out_indices=(2, 3))
        for i, out in enumerate(encoder(case.inputs[f'x_{kind}'])):
            assert_close(out, case.outputs[f'f_{kind}.{i}'])


@pytest.mark.parametrize('device', ['cpu', 'meta'])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_meta_and_allocated_modules_end_up_the_same(case, device, dtype, tmp_path):
    path, _, _ = write_layout('native_chat', case, tmp_path)
    with torch.device(device):
        encoder = InternViT(arch_of(case), frozen_stages=1, dtype='fp32')
    before = {name: p.requires_grad for name, p in encoder.named_parameters()}
    report = load_encoder(encoder, open_checkpoint(path), dtype=dtype)
    assert report.num_loaded == len(encoder.state_dict())
    for name, tensor in authors_state(case).items():
        loaded = encoder.state_dict()[name]
        assert loaded.dtype == (dtype or torch.float32)
        assert torch.equal(loaded, tensor.to(loaded.dtype))
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == before


def test_loaded_weights_outlive_the_file(case, tmp_path):
    path, _, _ = write_layout('hub', case, tmp_path)
    with torch.device('meta'):
        encoder = InternViT(arch_of(case))
    load_encoder(encoder, open_checkpoint(path))
    with (path / 'model.safetensors').open('r+b') as f:  # as a careless copy over it would
        f.write(b'\xff' * (path / 'model.safetensors').stat().st_size)
    expected = authors_state(case)
    assert all(torch.equal(t, expected[k]) for k, t in encoder.state_dict().items())


@pytest.mark.parametrize('kind', ['hub_sharded', 'native_chat', 'pth_module', 'hub_bin_sharded'])
def test_files_are_mapped_anew_without_a_difference(case, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_contents, '_WINDOW_BYTES', 1)  # after every tensor
    path, _, _ = write_layout(kind, case, tmp_path)
    stored = {name: tensor.clone() for name, tensor in open_checkpoint(path).tensors()}
    expected = authors_state(case)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[k], expected[k]) for k in expected)


def test_blocks_beyond_the_encoder_are_left_unread_and_named(case, tmp_path):
    depth = case.meta['config']['num_hidden_layers']
    state = authors_state(case)
    last = {k: v for k, v in state.items() if k.startswith(f'blocks.{depth - 1}.')}
    more = {k.replace(f'.{depth - 1}.', f'.{depth}.'): v for k, v in last.items()}
    path = write_pth(tmp_path / 'deeper.pth', {**state, **more})
    encoder = InternViT.from_pretrained(path, num_heads=num_heads(case), depth=depth)
    assert encoder.load_report.skipped_blocks == (depth,)
    assert encoder.load_report.num_loaded == len(state)
    assert f'left unread: blocks {depth}' in encoder.load_report.summary()
    tokens = encoder.forward_features(case.inputs['pixel_values'])
    assert_close(tokens, case.outputs['last_hidden_state'])


def test_an_encoder_without_class_token_drops_its_row_and_says_so(case, tmp_path):
    path, _, _ = write_layout('hub', case, tmp_path)
    encoder = InternViT.from_pretrained(path, num_prefix_tokens=0)
    expected = authors_state(case)
    assert torch.equal(encoder.pos_embed, expected['pos_embed'][:, 1:])
    assert 'cls_token' not in encoder.state_dict()
    summary = encoder.load_report.summary()
    assert 'without its class row' in summary
    assert 'left unread: cls_token' in summary


def test_adapter_checkpoints_keep_a_class_row_that_is_dropped(tmp_path):
    case = load_case('C_internvit_adapter')
    arch = {
        'embed_dim': 64,
        'depth': 4,
        'num_heads': 4,
        'mlp_ratio': 2.0,
        'patch_size': 16,
        'img_size': 64,
    }
    encoder = InternViT({**arch, 'num_prefix_tokens': 0})
    found = open_checkpoint(write_pth(tmp_path / 'adapter.pth', case.state_dict))
    report = load_encoder(encoder, found)
    assert torch.equal(encoder.pos_embed, case.state_dict['pos_embed'][:, 1:])
    assert report.num_loaded + len(report.other_keys) == len(case.state_dict)
    with pytest.raises(ValueError, match=r'1 missing \(cls_token\).*num_prefix_tokens=0'):
        load_encoder(InternViT(arch), found)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'depth': 5}, r'missing \(blocks\.\d\..*build the encoder with depth='),
        ({'embed_dim': 60}, r'misshapen \(.* instead of .*build the encoder with embed_dim='),
        ({'qkv_bias': True}, r'missing \(blocks\.0\.attn\.qkv\.bias.*qkv_bias=False'),
        ({'qk_norm': False}, r'unexpected \(blocks\.0\.attn\.k_norm\.weight.*qk_norm=True'),
        ({'norm': 'layer'}, r'missing \(blocks\.0\.norm1\.bias.*norm=rms'),
        ({'mlp_ratio': 1.0}, r'misshapen \(blocks\.0\.mlp\.fc1\.bias is .*mlp_ratio='),
        ({'num_heads': 2}, r'made with num_heads=\d, the encoder has num_heads=2'),
        ({'norm_eps': 1e-3}, r'made with norm_eps=1e-06, the encoder has norm_eps=0.001'),
    ],
)
def test_an_encoder_that_does_not_fit_is_told_what_would(case, changes, message, tmp_path):
    path, _, _ = write_layout('hub', case, tmp_path)
    encoder = InternViT(arch_of(case, **changes))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(encoder, open_checkpoint(path))
    assert '\n' not in str(error.value)
    assert str(path) in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_key_missing_inside_is_named(case, tmp_path):
    state = authors_state(case)
    del state['blocks.1.ls1.gamma']
    path = write_pth(tmp_path / 'incomplete.pth', state)
    with pytest.raises(
        ValueError, match=r'not a complete InternViT: 1 missing \(blocks\.1\.ls1\.g'
    ):
        open_checkpoint(path)


def test_a_third_of_qkv_missing_is_named(case, tmp_path):
    state = native_state(case)
    del state['encoder.layer.1.attention.k_proj.weight']
    path = write_repository(tmp_path / 'x', state, native_config(case))
    with pytest.raises(ValueError, match=r'1 missing \(blocks\.1\.attn\.qkv\.weight\)'):
        open_checkpoint(path)


def test_an_unexpected_key_inside_a_block_is_named(case, tmp_path):
    state = {**authors_state(case), 'blocks.0.attn.rel_pos': torch.ones(2)}
    path = write_pth(tmp_path / 'other.pth', state)
    with pytest.raises(ValueError, match=r'1 unexpected keys .*\(blocks\.0\.attn\.rel_pos\)'):
        open_checkpoint(path)


def test_two_encoders_in_one_file_are_not_guessed_between(case, tmp_path):
    state = authors_state(case)
    both = {
        f'{p}.{k}': v for p in ('student.backbone', 'teacher.backbone') for k, v in state.items()
    }
    path = write_pth(tmp_path / 'two.pth', both)
    with pytest.raises(ValueError, match=r"2 encoders below 'student\.backbone\.', 'teacher"):
        open_checkpoint(path)


def test_init_cfg_and_from_pretrained_agree(case, tmp_path):
    path, _, _ = write_layout('segmentor_runner', case, tmp_path)
    encoder = InternViT(arch_of(case), init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    encoder.init_weights()
    expected = authors_state(case)
    assert all(torch.equal(t, expected[k]) for k, t in encoder.state_dict().items())
    assert 'decode_head (1)' in encoder.load_report.summary()
