"""What is not a checkpoint, or no longer: one line that says what it is and what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from mmdet_seg.backbones.checkpoint import open_checkpoint, read_arch
from tests.golden_data import load_case, load_meta
from tests.test_backbones.checkpoint_cases import (
    authors_state,
    native_config,
    native_state,
    write_layout,
    write_pth,
    write_repository,
)


@pytest.fixture(scope='module')
def case():
    return load_case('N_eps_internvit_6b_like')


def line_of(source, kind=ValueError, **overrides):
    """The one line that opening ``source`` ends with."""
    with pytest.raises(kind) as error:
        open_checkpoint(source, overrides).arch  # noqa: B018
    line = str(error.value)
    assert '\n' not in line
    assert len(line) < 700
    return line


@pytest.mark.parametrize('kind', ['hub_file', 'pth', 'pth_before_torch_1_6', 'segmentor_runner'])
@pytest.mark.parametrize('part', [0.0, 0.001, 0.5, 0.98])
def test_truncated_files(case, kind, part, tmp_path):
    path, _, _ = write_layout(kind, case, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    line = line_of(path)
    assert str(path) in line
    assert any(word in line for word in ('truncated', 'cut short', 'empty', 'neither'))


@pytest.mark.parametrize('kind', ['hub_sharded', 'hub_bin_sharded'])
def test_a_truncated_shard_is_named(case, kind, tmp_path):
    path, _, _ = write_layout(kind, case, tmp_path)
    shard = sorted(p for p in path.iterdir() if '00002' in p.name)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in line_of(path)


@pytest.mark.parametrize('kind', ['hub_file', 'pth'])
def test_damaged_headers(case, kind, tmp_path):
    path, _, _ = write_layout(kind, case, tmp_path)
    content = bytearray(path.read_bytes())
    at = 16 if kind == 'hub_file' else -40  # the JSON; the directory of the archive
    content[at : at + 12] = b'\xff' * 12
    path.write_bytes(bytes(content))
    assert str(path) in line_of(path)


@pytest.mark.parametrize('name', ['weights.pth', 'model.safetensors', 'pytorch_model.bin'])
@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 11819223856\n',
            'is a Git LFS pointer (74 bytes) for 11.8 GB of weights',
        ),
        (b'<!DOCTYPE html>\n<html><body>404</body></html>', 'is a web page'),
        (b'\n  <html lang="en">', 'is a web page'),
        (b'{"error":"Repository not found"}', 'neither a safetensors nor a PyTorch file'),
        (b'', 'is empty (0 bytes)'),
        (b'GGUF\x03\x00\x00\x00', 'neither a safetensors nor a PyTorch file'),
    ],
)
def test_what_lies_there_instead_of_weights(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert expected in line_of(tmp_path / name)
    assert expected in line_of(tmp_path)  # found as the one weight file of its directory


def test_a_file_that_wants_to_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ('code ran',)

    path = write_pth(tmp_path / 'evil.pth', {'a': torch.ones(2), 'b': Evil()})
    assert "asks for 'print'" in line_of(path)


def test_other_architectures(case, tmp_path):
    resnet = {
        'conv1.weight': torch.ones(2),
        'bn1.weight': torch.ones(2),
        'fc.weight': torch.ones(2),
    }
    line = line_of(write_pth(tmp_path / 'resnet.pth', {'state_dict': resnet}))
    assert 'has no InternViT in it: 3 keys (conv1.weight, bn1.weight, fc.weight)' in line
    assert 'give an InternViT' in line

    llama = {k: torch.ones(1) for k in load_meta('K_keys_InternLM2-20B_one_layer')['keys']}
    path = write_repository(tmp_path / 'llama', llama, {'model_type': 'internlm2'}, num=2)
    assert 'no InternViT in it: 10 keys of a internlm2 model' in line_of(path)

    (path / 'config.json').write_text('{"model_type": "llama", "hidden_size": 4096}')
    with pytest.raises(ValueError, match='no InternViT in it'):
        read_arch(path)

    swin = {'patch_embed.proj.weight': torch.ones(8, 3, 4, 4), 'layers.0.w': torch.ones(2)}
    assert 'it has patches and no blocks' in line_of(write_pth(tmp_path / 'swin.pth', swin))

    vit = {k: v for k, v in authors_state(case).items() if '.ls' not in k}
    line = line_of(write_pth(tmp_path / 'vit.pth', vit), num_heads=3)
    assert 'not a complete InternViT' in line
    assert 'blocks.0.ls1.gamma' in line

    registers = {**authors_state(case), 'reg_token': torch.ones(1, 4, 48)}
    assert '(reg_token)' in line_of(write_pth(tmp_path / 'reg.pth', registers))

    clip = {
        'vision_model.embeddings.patch_embedding.weight': torch.ones(8, 3, 14, 14),
        'vision_model.encoder.layers.0.self_attn.q_proj.weight': torch.ones(8, 8),
    }
    line = line_of(write_repository(tmp_path / 'clip', clip, {'model_type': 'clip'}))
    assert 'is not an InternViT: 1 unexpected keys' in line

    per_head = authors_state(case)
    per_head |= {k: v[:16].clone() for k, v in per_head.items() if '_norm.' in k}
    line = line_of(write_pth(tmp_path / 'per_head.pth', per_head), num_heads=3)
    assert 'misshapen (blocks.0.attn' in line


def test_files_without_named_tensors(tmp_path):
    assert 'holds list, not named tensors' in line_of(
        write_pth(tmp_path / 'a.pth', [torch.ones(2)])
    )
    empty = write_pth(tmp_path / 'b.pth', {'state_dict': {}})
    assert 'holds an empty state dict' in line_of(empty)


def test_directories_without_weights(tmp_path):
    line = line_of(tmp_path, FileNotFoundError)
    assert 'has no weights (*.safetensors, *.bin, *.pth): it is empty' in line
    (tmp_path / 'README.md').write_text('hello')
    (tmp_path / 'config.json').write_text('{}')
    assert 'it holds README.md, config.json' in line_of(tmp_path, FileNotFoundError)
    (tmp_path / 'training_args.bin').write_bytes(b'x')
    assert 'has no weights' in line_of(tmp_path, FileNotFoundError)


def test_several_files_of_which_each_could_be_meant(case, tmp_path):
    for name in ('iter_1000.pth', 'iter_2000.pth'):
        write_pth(tmp_path / name, authors_state(case))
    line = line_of(tmp_path)
    assert 'has 2 weight files (iter_1000.pth, iter_2000.pth) and no index' in line
    assert str(tmp_path / 'iter_1000.pth') in line


def test_missing_shards(case, tmp_path):
    path, _, _ = write_layout('hub_sharded', case, tmp_path)
    (path / 'model-00002-of-00003.safetensors').unlink()
    line = line_of(path, FileNotFoundError)
    assert 'model-00002-of-00003.safetensors is missing' in line
    assert '(1 missing in all)' in line
    (path / 'model.safetensors.index.json').unlink()
    line = line_of(path, FileNotFoundError)
    assert 'has 2 of 3 weight files, model-00002-of-00003.safetensors is missing' in line


def test_shards_of_other_parts_may_be_missing(case, tmp_path):
    state = {f'vision_model.{k}': v for k, v in case.state_dict.items()}
    path = write_repository(tmp_path / 'chat', state, {'vision_config': case.meta['config']})
    (path / 'model.safetensors').rename(path / 'model-00001-of-00002.safetensors')
    weight_map = dict.fromkeys(state, 'model-00001-of-00002.safetensors')
    weight_map['language_model.norm.weight'] = 'model-00002-of-00002.safetensors'
    (path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    found = open_checkpoint(path)
    assert len(dict(found.tensors())) == len(state)
    assert found.other_keys == ('language_model.norm.weight',)


def test_an_index_that_is_wrong(case, tmp_path):
    path, _, _ = write_layout('hub_sharded', case, tmp_path)
    index = path / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    key = 'encoder.layers.0.norm1.weight'
    names = sorted(set(content['weight_map'].values()) - {content['weight_map'][key]})
    content['weight_map'][key] = names[0]
    index.write_text(json.dumps(content))
    assert f'has no {key}, though the index beside it says so' in line_of(path)
    content['weight_map'][key] = '../../etc/passwd'
    index.write_text(json.dumps(content))
    assert 'is not a file beside it' in line_of(path)
    index.write_text('{"metadata": {}}')
    assert 'has no weight_map' in line_of(path)
    index.write_text('{"weight_map": {"a": ')
    assert 'cannot be read as JSON' in line_of(path)


@pytest.mark.parametrize('text', ['', '{', '[1, 2]', '\xff\xfe'])
def test_unreadable_config(case, text, tmp_path):
    path, _, _ = write_layout('hub', case, tmp_path)
    (path / 'config.json').write_bytes(text.encode('latin-1'))
    assert 'config.json' in line_of(path)


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('num_hidden_layers', 45, 'says depth=45 (num_hidden_layers), its tensors say depth=3;'),
        ('hidden_size', 64, 'says embed_dim=64 (hidden_size), its tensors say embed_dim=48'),
        ('intermediate_size', 192, 'says mlp_ratio=4.0 (intermediate_size)'),
        ('image_size', 448, 'says img_size=448 (image_size), its tensors say img_size='),
        ('patch_size', 16, 'says patch_size=16 (patch_size), its tensors say patch_size=14'),
        ('qk_normalization', False, 'says qk_norm=False (qk_normalization)'),
        ('norm_type', 'layer_norm', 'says norm=layer (norm_type), its tensors say norm=rms'),
        ('norm_type', 'batch_norm', "norm_type='batch_norm'"),
        ('num_attention_heads', 5, 'embed_dim=48 is not a multiple of num_heads=5'),
        ('num_attention_heads', 'three', "num_attention_heads='three'"),
        ('image_size', [448, 224], 'needs a square'),
        ('layer_norm_eps', 0, 'layer_norm_eps=0'),
    ],
)
def test_config_that_contradicts_the_tensors(case, key, value, expected, tmp_path):
    config = {**case.meta['config'], key: value}
    path = write_repository(tmp_path / 'x', case.state_dict, config)
    assert expected in line_of(path)


def test_a_contradicted_field_can_be_settled_by_the_caller(case, tmp_path):
    config = {**case.meta['config'], 'num_hidden_layers': 45}
    path = write_repository(tmp_path / 'x', case.state_dict, config)
    assert open_checkpoint(path, {'depth': 2}).arch.depth == 2


def test_metadata_of_our_own_that_is_damaged(case, tmp_path):
    path = tmp_path / 'own.safetensors'
    state = {k: v.contiguous() for k, v in authors_state(case).items()}
    save_file(state, path, metadata={'mmdet_seg.arch': '{"embed_dim": 48, "wings": 2}'})
    assert 'wings: not a field of arch' in line_of(path)


def test_native_files_whose_eps_we_cannot_follow(case, tmp_path):
    config = {**native_config(case), 'layer_norm_eps': 1e-5}
    path = write_repository(tmp_path / 'x', native_state(case), config)
    assert 'for which transformers uses 1e-06; pass norm_eps=1e-05' in line_of(path)
    assert open_checkpoint(path, {'norm_eps': 1e-5}).arch.norm_eps == 1e-5


@pytest.mark.parametrize('dtype', [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize('kind', ['pth', 'safetensors'])
def test_quantised_weights(case, dtype, kind, tmp_path):
    state = {k: v.contiguous() for k, v in authors_state(case).items()}
    state['blocks.0.mlp.fc1.weight'] = state['blocks.0.mlp.fc1.weight'].to(dtype)
    path = tmp_path / f'quantised.{kind}'
    (save_file if kind == 'safetensors' else torch.save)(state, path)
    assert 'stores blocks.0.mlp.fc1.weight as ' in line_of(path, num_heads=3)


def test_position_table_that_is_no_square(case, tmp_path):
    state = authors_state(case)
    state['pos_embed'] = torch.ones(1, 1 + 12, 48)
    assert 'not (1, K + n*n, D)' in line_of(write_pth(tmp_path / 'x.pth', state))


def test_paths_that_do_not_exist(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(write_layout('pth', case, tmp_path)[0], tmp_path / 'intern_vit_6b_224px.pth')
    line = line_of('intern_vit_6b_244px.pth', FileNotFoundError)
    assert (
        "No file or directory 'intern_vit_6b_244px.pth'; nearest: intern_vit_6b_224px.pth" in line
    )
    (tmp_path / 'pretrained').mkdir()
    for source in (
        'pretrained/InternViT',
        tmp_path / 'a' / 'b',
        './a/b',
        '~/nowhere/x',
        'a b',
        '/x',
    ):
        assert 'No file or directory' in line_of(source, FileNotFoundError)
    assert 'has no published weights' in line_of('tiny')
    assert read_arch('tiny').embed_dim == 32
