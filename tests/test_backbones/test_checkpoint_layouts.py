"""Every layout is recognised by itself and gives the authors' outputs; every released key maps."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from mmdet_seg.backbones import ARCHS, InternViT, get_arch
from mmdet_seg.backbones.checkpoint import open_checkpoint, read_arch
from mmdet_seg.backbones.layouts import expected_shapes, group_keys, locate_encoder
from tests.golden_data import assert_close, golden_names, golden_path, load_case, load_meta
from tests.test_backbones.checkpoint_cases import (
    CASES,
    KINDS,
    authors_state,
    num_heads,
    write_layout,
    write_repository,
)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', CASES)
def test_every_layout_gives_the_authors_outputs(name, kind, tmp_path):
    case = load_case(name)
    if kind == 'timm' and case.meta['config']['qk_normalization']:
        pytest.skip('timm has no encoder of this kind')
    path, layout, others = write_layout(kind, case, tmp_path)

    found = open_checkpoint(path, {'num_heads': num_heads(case)})
    assert found.layout == layout
    groups = group_keys(found.other_keys, found.prefix)
    assert {g.split(' ')[0] for g in groups.split(', ')} - {''} == others
    stored = dict(found.tensors())
    expected = authors_state(case)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[k], expected[k]) for k in expected)

    encoder = InternViT.from_pretrained(path, num_heads=num_heads(case))
    assert encoder.arch.norm_eps == case.meta['config']['layer_norm_eps']
    tokens = encoder.forward_features(case.inputs['pixel_values'])
    assert_close(tokens, case.outputs['last_hidden_state'])


@pytest.mark.parametrize('kind', ['hub', 'chat', 'native', 'native_chat', 'timm'])
def test_a_repository_says_its_heads(kind, tmp_path):
    case = load_case('A_internvit_300m_like')
    path, _, _ = write_layout(kind, case, tmp_path)
    config = case.meta['config']
    arch = open_checkpoint(path).arch
    assert arch.num_heads == config['num_attention_heads'] == 8
    assert arch.depth == config['num_hidden_layers']
    assert arch.img_size == config['image_size']
    assert (arch.norm, arch.qkv_bias, arch.qk_norm) == ('layer', True, False)
    assert arch.mlp_dim == config['intermediate_size']
    # Without the weights, too.
    for file in path.glob('model*'):
        file.unlink()
    assert read_arch(path) == arch


def test_heads_that_no_file_states_are_asked_for(tmp_path):
    path, _, _ = write_layout('pth', load_case('A_internvit_300m_like'), tmp_path)
    with pytest.raises(
        ValueError, match=r'num_heads cannot be read.*embed_dim=64.*pass num_heads='
    ):
        InternViT.from_pretrained(path)


def test_read_arch_of_a_published_name_needs_no_files():
    assert read_arch('6b-448px-v2-5') is ARCHS['6b-448px-v2-5']


def test_whole_native_model_equals_the_authors_chat_model(tmp_path):
    native, chat = load_case('J_hf_conditional_generation'), load_case('F_chat_qwen2')
    path = write_repository(tmp_path / 'native', native.state_dict, native.meta['config'], num=3)
    other = write_repository(tmp_path / 'chat', chat.state_dict, chat.meta['config'])
    a, b = open_checkpoint(path), open_checkpoint(other)
    assert (a.layout, b.layout) == ('native', 'chat')
    assert a.arch.to_dict() | {'drop_path_rate': 0} == b.arch.to_dict() | {'drop_path_rate': 0}
    ours, theirs = dict(a.tensors()), dict(b.tensors())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    left = group_keys(a.other_keys, a.prefix)
    assert left.startswith('model.language_model (') or 'model.multi_modal_projector (6)' in left


@pytest.mark.parametrize(
    ('name', 'layout', 'num_others'),
    [
        ('E_internvl14b', 'chat', None),
        ('E_internvl_c_pytorch', 'pth', None),
        ('M_seg_linear', 'segmentor', 7),
        ('M_seg_adapter_upernet', 'segmentor', None),
        ('C_internvit_adapter', 'pth', None),
        ('H_attention_pooling', 'pth', None),
    ],
)
def test_whole_models_of_the_authors(name, layout, num_others, tmp_path):
    case = load_case(name)
    path = tmp_path / 'model.pth'
    torch.save(case.state_dict, path)
    found = open_checkpoint(path, {'num_heads': 4})
    assert found.layout == layout
    # Every key is the encoder's or is named as another part's.
    assert len(found.names) + len(found.other_keys) == len(case.state_dict)
    if num_others is not None:
        assert len(found.other_keys) == num_others
    shapes = expected_shapes(found.arch)
    assert found.names.keys() == shapes.keys()
    assert {k: v for k, v in found.names.items() if k != 'pos_embed'} == {
        k: v for k, v in shapes.items() if k != 'pos_embed'
    }


@pytest.mark.parametrize('case', ['A_internvit_300m_like', 'A_internvit_6b_like', 'F_chat_qwen2'])
def test_every_key_of_the_authors_converter_maps(case):
    keys = load_meta('J_official_converters')['cases'][case]['official_to_hf_keys']
    found = locate_encoder(keys)
    assert found.prefix == 'model.vision_tower.'
    assert not found.unexpected
    tower = [key for key in keys if key.startswith('model.vision_tower.')]
    assert sorted(key for stored in found.sources.values() for key in stored) == sorted(tower)
    assert sorted(found.other_keys) == sorted(set(keys) - set(tower))


# Golden key list -> the encoder that it holds, its other keys.
RELEASED = {
    'InternViT-6B-224px': ('6b-224px', {}, {}),
    'InternViT-6B-448px-V1-0': ('6b-448px-v1-0', {}, {}),
    'InternViT-6B-448px-V1-2': ('6b-448px-v1-2', {}, {}),
    'InternViT-6B-448px-V1-5': ('6b-448px-v1-5', {}, {}),
    'InternViT-6B-448px-V2_5': ('6b-448px-v2-5', {}, {}),
    'InternViT-300M-448px': ('300m-448px', {}, {}),
    'InternVL-Chat-V1-5_vision_mlp': ('6b-448px-v1-5', {}, {'mlp1': 6}),
    'InternVL-14B-224px': (
        '6b-224px',
        {},
        {
            'query_tokens': 1,
            'text_projection': 1,
            'logit_scale': 1,
            'qllama': 387,
            'clip_projector': 14,
            'clip_projector2': 14,
            'itm_head': 2,
        },
    ),
    'internvl_c_13b_224px_pth': (
        '6b-224px',
        {},
        {'text_projection': 1, 'logit_scale': 1, 'transformer': 290, 'clip_projector': 14},
    ),
    'classification_attn_pool_6b_448_v2_5': (
        '6b-448px-v2-5',
        {},
        {'attn_pooling': 14, 'norm': 5, 'head': 2},
    ),
    'classification_clip_projector_6b_224': (
        '6b-224px',
        {},
        {'clip_projector': 14, 'norm': 5, 'head': 2},
    ),
    'classification_linear_probe_6b_224': ('6b-224px', {}, {'norm': 5, 'head': 2}),
    'segmentation_backbone_linear_probe_504': ('6b-224px', {'img_size': 504}, {}),
    'segmentation_backbone_upernet_504': ('6b-224px', {'img_size': 504}, {'up1': 6, 'up2': 2}),
    'internvit_adapter_6b_512': (
        '6b-224px',
        {'img_size': 512, 'patch_size': 16, 'num_prefix_tokens': 0},
        {
            'level_embed': 1,
            'spm': 26,
            'interactions': 172,
            'up': 2,
            'norm1': 2,
            'norm2': 2,
            'norm3': 2,
            'norm4': 2,
        },
    ),
}


def test_all_released_lists_are_tried():
    lists = {name.removeprefix('K_keys_') for name in golden_names('K_keys_')}
    assert lists == {*RELEASED, 'InternLM2-20B_one_layer'}


def test_a_language_model_has_no_encoder():
    assert locate_encoder(load_meta('K_keys_InternLM2-20B_one_layer')['keys']) is None


@pytest.mark.parametrize('name', RELEASED)
def test_every_released_key_maps(name, tmp_path):
    keys = load_meta(f'K_keys_{name}')['keys']
    published, changed, others = RELEASED[name]
    arch = get_arch(published, **changed)
    path = _write_hollow(tmp_path / 'hollow', keys)

    found = open_checkpoint(path)
    assert found.arch.to_dict() == arch.to_dict() | {
        'drop_path_rate': ARCHS[published].drop_path_rate
    }
    counts = {}
    for key in found.other_keys:
        counts[key.split('.')[0]] = counts.get(key.split('.')[0], 0) + 1
    assert counts == others
    assert len(found.names) + len(found.other_keys) == len(keys)

    with torch.device('meta'):
        encoder = InternViT(arch)
    built = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    assert built == expected_shapes(arch)
    stored = dict(found.names)
    if not arch.num_prefix_tokens:  # the adapter keeps a row for a class token that it lacks
        rows = stored['pos_embed'][1]
        stored['pos_embed'] = (1, rows - 1, arch.embed_dim)
    assert stored == built


def _write_hollow(folder, shapes):
    """Shards of full size whose data are holes: no disk, no time."""
    folder.mkdir()
    weight_map, keys = {}, list(shapes)
    for i in range(8):
        name, header, end = f'model-{i + 1:05d}-of-00008.safetensors', {}, 0
        for key in keys[i::8]:
            start, end = end, end + 2 * math.prod(shapes[key])
            header[key] = {'dtype': 'BF16', 'shape': shapes[key], 'data_offsets': [start, end]}
        text = json.dumps(header).encode()
        with (folder / name).open('wb') as f:
            f.write(len(text).to_bytes(8, 'little') + text)
            f.truncate(8 + len(text) + end)
        weight_map |= dict.fromkeys(header, name)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    return folder


@pytest.mark.parametrize(('name', 'heads'), [('B_seg_pretrained_patch16', 4), ('L_hf2pytorch', 4)])
def test_golden_pth_files_are_read_bit_for_bit(name, heads):
    stored = dict(open_checkpoint(golden_path(f'{name}.pth'), {'num_heads': heads}).tensors())
    tensors = load_file(golden_path(f'{name}.safetensors'))
    expected = {k.split('/')[1]: v for k, v in tensors.items() if k.startswith(('ckpt/', 'pth/'))}
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[k], expected[k]) for k in expected)
