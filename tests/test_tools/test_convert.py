"""Every layout to every other and back, bit for bit; the readers of each layout load the result."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmdet_seg import command_line
from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint import open_checkpoint
from mmdet_seg.backbones.checkpoint_writer import save_encoder
from mmdet_seg.backbones.conversion import convert
from tests.golden_data import assert_close, golden_path, load_case
from tests.test_backbones.checkpoint_cases import (
    CASES,
    KINDS,
    authors_state,
    native_state,
    num_heads,
    write_layout,
    write_pth,
)
from tools import convert as command

ROOT = Path(__file__).parents[2]
TARGETS = {'native': 'native', 'hub': 'hub', 'pth': 'x.pth', 'timm': 'timm', 'own': 'x.safetensors'}


def targets_of(case):
    """Layouts that can hold the case."""
    return [t for t in TARGETS if t != 'timm' or not case.meta['config']['qk_normalization']]


def stored(path, case):
    return dict(open_checkpoint(path, {'num_heads': num_heads(case)}).tensors())


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in b:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', CASES)
def test_every_layout_to_every_layout_and_back(name, kind, tmp_path):
    case = load_case(name)
    if kind == 'timm' and 'timm' not in targets_of(case):
        pytest.skip('timm has no encoder of this kind')
    source, _, _ = write_layout(kind, case, tmp_path / 'source')
    heads = {'num_heads': num_heads(case)}
    own = tmp_path / 'own.safetensors'
    convert(source, own, 'own', arch_overrides=heads)
    assert_same(stored(own, case), authors_state(case))
    for layout in targets_of(case):
        out = tmp_path / TARGETS[layout]
        report = convert(own, out, layout, max_shard_bytes=60_000)
        assert report.num_tensors == len(case.state_dict)
        assert open_checkpoint(out, heads).layout == layout
        assert_same(stored(out, case), authors_state(case))


@pytest.mark.parametrize('shard', [20_000, 10**9])
@pytest.mark.parametrize('name', CASES)
def test_transformers_loads_native(name, shard, tmp_path):
    transformers = pytest.importorskip('transformers')
    case = load_case(name)
    source, _, _ = write_layout('hub', case, tmp_path)
    out = tmp_path / 'out'
    convert(source, out, 'native', max_shard_bytes=shard)
    assert (len(list(out.glob('*.safetensors'))) > 1) == (shard == 20_000)
    model, info = transformers.InternVLVisionModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    with torch.no_grad():
        theirs = model.eval()(case.inputs['pixel_values']).last_hidden_state
    assert_close(theirs, case.outputs['last_hidden_state'])


def test_native_equals_the_golden_native_outputs(tmp_path):
    transformers = pytest.importorskip('transformers')
    golden = load_case('J_hf_vision_300m_like')
    source, _, _ = write_layout('pth', load_case('A_internvit_300m_like'), tmp_path)
    convert(source, tmp_path / 'out', 'native', arch_overrides={'num_heads': 8})
    model = transformers.InternVLVisionModel.from_pretrained(tmp_path / 'out').eval()
    with torch.no_grad():
        tokens = model(golden.inputs['pixel_values']).last_hidden_state
    assert_close(tokens, golden.outputs['last_hidden_state'])


def test_native_names_are_those_of_the_golden_key_map(tmp_path):
    case = load_case('A_internvit_300m_like')
    source, _, _ = write_layout('hub', case, tmp_path)
    convert(source, tmp_path / 'out', 'native')
    assert_same(load_file(tmp_path / 'out' / 'model.safetensors'), native_state(case))


def test_timm_loads_timm(tmp_path):
    timm = pytest.importorskip('timm')
    case = load_case('A_internvit_300m_like')
    source, _, _ = write_layout('hub', case, tmp_path)
    convert(source, tmp_path / 'out', 'timm')
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    with torch.no_grad():
        tokens = model.forward_features(case.inputs['pixel_values'])
    assert_close(tokens, case.outputs['last_hidden_state'])
    ours = InternViT.from_pretrained(tmp_path / 'out')
    assert_close(ours.forward_features(case.inputs['pixel_values']), tokens, 1e-5)


def test_hub_has_the_authors_names_and_config(tmp_path):
    case = load_case('A_internvit_300m_like')
    source, _, _ = write_layout('pth', case, tmp_path)
    convert(source, tmp_path / 'out', 'hub', arch_overrides={'num_heads': 8})
    assert_same(load_file(tmp_path / 'out' / 'model.safetensors'), case.state_dict)
    arch = open_checkpoint(tmp_path / 'out').arch
    assert arch.num_heads == 8
    assert arch.norm == 'layer'


def test_pth_equals_the_authors_converter(tmp_path):
    golden, case = load_case('L_hf2pytorch'), load_case('A_internvit_6b_like')
    source, _, _ = write_layout('hub', case, tmp_path)
    convert(source, tmp_path / 'x.pth', 'pth')
    ours = torch.load(tmp_path / 'x.pth', weights_only=True)
    theirs = torch.load(golden_path('L_hf2pytorch.pth'), weights_only=True)
    assert list(ours) == list(theirs) == ['module']
    assert_same(ours['module'], theirs['module'])
    assert_same(
        ours['module'],
        {k.removeprefix('pth/'): v for k, v in golden.tensors.items() if k.startswith('pth/')},
    )


def test_pth_holds_no_more_than_its_tensors(tmp_path):
    case = load_case('N_eps_internvit_6b_like')
    source, _, _ = write_layout('native_chat', case, tmp_path)
    report = convert(source, tmp_path / 'x.pth', 'pth')
    assert (tmp_path / 'x.pth').stat().st_size < report.num_bytes + 40_000


@pytest.mark.parametrize('layout', ['own', 'native', 'pth'])
def test_dtype_is_changed_on_request(layout, tmp_path):
    case = load_case('N_eps_internvit_6b_like')
    source, _, _ = write_layout('chat', case, tmp_path)
    report = convert(source, tmp_path / TARGETS[layout], layout, dtype='bf16')
    assert report.other_keys
    assert report.num_bytes == sum(2 * t.numel() for t in case.state_dict.values())
    expected = {k: v.bfloat16() for k, v in authors_state(case).items()}
    assert_same(stored(tmp_path / TARGETS[layout], case), expected)


def test_tensors_of_several_dtypes_stay_aligned(tmp_path):
    case = load_case('N_eps_internvit_6b_like')
    state = {k: (v if v.ndim == 1 else v.half()) for k, v in authors_state(case).items()}
    path = write_pth(tmp_path / 'mixed.pth', state)
    convert(path, tmp_path / 'x.safetensors', 'own', arch_overrides={'num_heads': num_heads(case)})
    assert_same(load_file(tmp_path / 'x.safetensors'), state)


def test_save_encoder_writes_a_live_model(tmp_path):
    encoder = InternViT('tiny')
    save_encoder(encoder.state_dict(), encoder.arch, tmp_path / 'tiny.safetensors', 'own')
    again = InternViT.from_pretrained(tmp_path / 'tiny.safetensors')
    assert again.arch == encoder.arch
    x = torch.randn(1, 3, 56, 70)
    assert torch.equal(again.forward_features(x), encoder.eval().forward_features(x))
    state = encoder.state_dict()
    del state['cls_token']
    with pytest.raises(ValueError, match=r'1 missing \(cls_token\)'):
        save_encoder(state, encoder.arch, tmp_path / 'x.safetensors', 'own')


@pytest.mark.parametrize(
    ('changes', 'layout', 'message'),
    [
        ({}, 'timm', "layout 'timm' cannot hold norm='rms'.*use native or hub"),
        ({'norm': 'layer'}, 'timm', "'timm' cannot hold qk_norm=True"),
        ({'norm': 'layer', 'qk_norm': False, 'norm_eps': 1e-5}, 'timm', 'norm_eps=1e-05'),
        ({'norm_eps': 1e-5}, 'native', 'norm_eps=1e-05, and its QK-norm always uses 1e-06'),
        ({'num_prefix_tokens': 0}, 'hub', 'always have a class token; use pth or own'),
        ({'num_prefix_tokens': 0}, 'native', 'always have a class token; use pth or own'),
    ],
)
def test_a_layout_that_would_compute_something_else_is_refused(changes, layout, message, tmp_path):
    arch = dict(embed_dim=32, depth=2, num_heads=2, img_size=28, **changes)
    encoder = InternViT(arch)
    with pytest.raises(ValueError, match=message):
        save_encoder(encoder.state_dict(), encoder.arch, tmp_path / 'out', layout)
    assert not list(tmp_path.iterdir())


# The command line.


def main(args):
    """Exit status of ``convert.py ARGS``."""
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda: command.main(args))
    return end.value.code


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['convert.py'])


@pytest.fixture
def source(tmp_path):
    return write_layout('hub', load_case('N_eps_internvit_6b_like'), tmp_path)[0]


def test_command_prints_the_report(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / 'x.pth'), '--to', 'pth']) == 0
    out = capsys.readouterr().out
    assert out.count('\n') == 1
    assert f'{source} (hub) -> {tmp_path / "x.pth"} (pth): ' in out


@pytest.mark.parametrize(
    ('out', 'to', 'message'),
    [
        ('x.pth', 'hub', "x.pth looks like a file: layout 'hub' is a directory"),
        ('folder', 'pth', "folder does not end in .pth: layout 'pth' is one file"),
        ('no/such/x.pth', 'pth', 'is not a directory; make it first'),
        ('there.pth', 'pth', 'there.pth is there already; choose another place or add --force'),
        ('there', 'hub', 'there is there already'),
    ],
)
def test_command_refuses_bad_targets(source, out, to, message, tmp_path, capsys):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there.pth').write_text('mine')
    assert main([str(source), str(tmp_path / out), '--to', to]) == 2
    err = capsys.readouterr().err
    assert err.startswith('convert.py: ')
    assert message in err
    assert err.count('\n') == 1
    assert (tmp_path / 'there.pth').read_text() == 'mine'


def test_force_replaces_what_it_wrote_and_nothing_else(source, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main([str(source), str(out), '--to', 'hub']) == 0
    assert main([str(source), str(out), '--to', 'native']) == 2
    assert main([str(source), str(out), '--to', 'native', '--force']) == 0
    assert open_checkpoint(out).layout == 'native'
    (out / 'notes.txt').write_text('mine')
    assert main([str(source), str(out), '--to', 'hub', '--force']) == 2
    assert 'notes.txt in it is not of this layout' in capsys.readouterr().err
    assert (out / 'notes.txt').read_text() == 'mine'
    file = tmp_path / 'x.pth'
    file.write_text('old')
    assert main([str(source), str(file), '--to', 'pth', '--force']) == 0
    assert open_checkpoint(file).layout == 'pth'
    # A directory onto itself: the source is read while the result is written aside.
    assert main([str(source), str(source), '--to', 'native', '--force']) == 0
    assert open_checkpoint(source).layout == 'native'
    assert not list(tmp_path.glob('.*'))


def test_a_source_that_breaks_half_way_leaves_nothing(tmp_path, capsys, monkeypatch):
    case = load_case('N_eps_internvit_6b_like')
    path, _, _ = write_layout('hub', case, tmp_path)
    calls = []

    def fails(*args):
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr('rich.progress.Progress.update', lambda self, *a, **k: fails(a))
    assert main([str(path), str(tmp_path / 'x.safetensors'), '--to', 'own']) == 130
    assert 'convert.py: interrupted' in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['hub']


def test_command_asks_for_heads_only_where_they_matter(tmp_path, capsys):
    path, _, _ = write_layout('pth', load_case('A_internvit_300m_like'), tmp_path)
    assert main([str(path), str(tmp_path / 'again.pth'), '--to', 'pth']) == 0
    assert main([str(path), str(tmp_path / 'native'), '--to', 'native']) == 2
    assert 'pass num_heads=' in capsys.readouterr().err
    args = [str(path), str(tmp_path / 'native'), '--to', 'native', '--num-heads', '8']
    assert main(args) == 0
    assert open_checkpoint(tmp_path / 'native').arch.num_heads == 8


def test_help_is_quick_and_errors_are_one_line(tmp_path):
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, str(ROOT / 'tools' / 'convert.py')]
    start = time.perf_counter()
    done = subprocess.run([*command, '--help'], env=env, capture_output=True, text=True)
    assert time.perf_counter() - start < 2
    assert done.returncode == 0
    assert '--dtype' in done.stdout
    args = [str(tmp_path / 'nowhere'), str(tmp_path / 'x.pth'), '--to', 'pth']
    done = subprocess.run([*command, *args], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().count('\n') == 0
    assert done.stderr.startswith('convert.py: No file or directory')
