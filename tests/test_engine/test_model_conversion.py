"""Whole models between a run's folders, files and mmengine; the encoder out of a run's folder."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from safetensors.torch import load_file, save_file

from mmdet_seg import command_line
from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.lora import merge_lora
from mmdet_seg.engine import checkpoint_folder
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.model_conversion import convert_model
from tests.run_folders import META, build, recipe, save_tiny, write_run
from tests.small_runs import run_options, tool
from tools import convert as command

WAYS = {  # name -> tune, from a published encoder, options
    'full': ('full', False, {}),
    'frozen': ('head', True, {}),
    'partial': ('partial:2', True, {}),
    'lora': ('lora:4', True, {}),
    'lora, other size': ('lora:4', True, {'model.backbone.img_size': 84}),
}


class Case:
    def __init__(self, root: Path, name: str, ema: bool = False) -> None:
        tune, published, options = WAYS[name]
        self.root = root
        self.source = save_tiny(root / 'tiny.safetensors') if published else None
        self.cfg = recipe(tune, self.source, **options)
        self.model = build(self.cfg)
        self.folder = write_run(self.model, self.cfg, root / 'iter_5', ema=ema)

    def fresh(self, **changes):
        torch.manual_seed(9)
        cfg = self.cfg.copy()
        cfg.model.backbone.update(changes)
        return MODELS.build(cfg.model).eval()


@pytest.fixture(params=WAYS)
def case(request, tmp_path):
    return Case(tmp_path, request.param)


def logits(model):
    x = torch.linspace(-2, 2, 2 * 3 * 56 * 70).view(2, 3, 56, 70)
    with torch.no_grad():
        return model(x, mode='tensor')


def main(*args):
    """Exit status of ``convert.py ARGS``."""
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda: command.main([str(a) for a in args]))
    return end.value.code


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['convert.py'])


def test_to_a_file_and_back(case, tmp_path, capsys):
    expected = logits(case.model)
    file, again = tmp_path / 'm.safetensors', tmp_path / 'again'
    assert main(case.folder, file, '--to', 'model') == 0
    out = capsys.readouterr().out
    assert (f'from {case.source}' in out) == (case.source is not None)
    assert main(file, tmp_path / 'm.pth', '--to', 'model') == 0
    assert main(tmp_path / 'm.pth', again, '--to', 'folder') == 0
    if case.source:  # nothing of what was written needs it
        case.source.unlink()
    for checkpoint in (file, tmp_path / 'm.pth', again):
        model = case.fresh()
        load_weights(model, checkpoint)
        assert torch.equal(logits(model), expected)
    # What knows nothing of us: mmengine's own function on the file.
    for checkpoint in ('m.pth', 'm.safetensors'):
        model = case.fresh(init_cfg=None)
        meta = load_checkpoint(model, str(tmp_path / checkpoint), 'cpu', strict=True)['meta']
        assert meta['dataset_meta'] == META
        assert torch.equal(logits(model), expected)


def test_the_encoder_out_of_a_run(case, tmp_path, capsys):
    out = tmp_path / 'encoder.safetensors'
    status = main(case.folder, out, '--to', 'own', '--num-heads', 2, '--dtype', 'fp32')
    if case.model.backbone.frozen:
        assert status == 2
        err = capsys.readouterr().err
        assert f'it was frozen and is that of {case.source}, unchanged' in err
        assert err.count('\n') == 1
        return
    assert status == 0
    expected = merge_lora(case.model.backbone.float()).state_dict()
    for source in (out, case.folder):
        found = InternViT.from_pretrained(source, num_heads=2).state_dict()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name == 'pos_embed':  # made for another size in float32, held in bf16
                value, found[name] = value.bfloat16(), found[name].bfloat16()
            assert torch.equal(found[name], value), name
    # init_cfg, as --weights sets it
    arch = case.model.backbone.arch
    encoder = InternViT(arch, init_cfg=dict(type='Pretrained', checkpoint=str(case.folder)))
    encoder.init_weights()
    assert torch.equal(encoder.blocks[-1].mlp.fc2.weight, expected['blocks.3.mlp.fc2.weight'])


def test_the_moving_average_counts(tmp_path):
    case = Case(tmp_path, 'lora', ema=True)
    convert_model(case.folder, tmp_path / 'm.pth')
    ours, theirs = case.fresh(), case.fresh()
    load_weights(ours, tmp_path / 'm.pth')
    load_weights(theirs, case.folder)
    assert torch.equal(logits(ours), logits(theirs))
    encoder = InternViT.from_pretrained(case.folder, num_heads=2)
    merged = merge_lora(theirs.backbone.float()).state_dict()
    assert torch.equal(encoder.blocks[1].attn.qkv.weight, merged['blocks.1.attn.qkv.weight'])


def test_adapters_merged_for_a_plain_config(tmp_path):
    case = Case(tmp_path, 'lora')
    convert_model(case.folder, tmp_path / 'm.pth', merge_lora=True)
    model = case.fresh(lora=None, init_cfg=None)
    load_checkpoint(model, str(tmp_path / 'm.pth'), 'cpu', strict=True)
    case.model.backbone.float()
    assert (logits(model) - logits(case.model)).abs().max() < 1e-4
    with pytest.raises(ValueError, match='no complete LoRA adapters to merge; leave --merge-lora'):
        convert_model(tmp_path / 'm.pth', tmp_path / 'n.pth', merge_lora=True)


def test_heads_alone(tmp_path):
    case = Case(tmp_path, 'frozen')
    case.source.unlink()
    convert_model(case.folder, tmp_path / 'heads.safetensors', heads_only=True)
    names = {k.split('.')[0] for k in load_file(tmp_path / 'heads.safetensors')}
    assert names == {'decode_head', 'auxiliary_head', 'neck'}


def test_more_than_fits_one_file(tmp_path, monkeypatch):
    case = Case(tmp_path, 'full')
    convert_model(case.folder, tmp_path / 'small')
    assert (tmp_path / 'small.safetensors').is_file()
    monkeypatch.setattr(checkpoint_folder, 'MAX_SHARD_BYTES', 100_000)
    report = convert_model(case.folder, tmp_path / 'large')
    assert report.out == str(tmp_path / 'large')
    index = json.loads((tmp_path / 'large' / 'model.safetensors.index.json').read_text())
    files = set(index['weight_map'].values())
    assert len(files) > 2
    assert all((tmp_path / 'large' / name).stat().st_size < 120_000 for name in files)
    model = case.fresh()
    load_weights(model, tmp_path / 'large')
    assert torch.equal(logits(model), logits(case.model))
    convert_model(tmp_path / 'large', tmp_path / 'one.safetensors')
    one = load_file(tmp_path / 'one.safetensors')
    assert {k: tuple(v.shape) for k, v in one.items()} == {
        k: tuple(v.shape) for k, v in case.model.state_dict().items()
    }


def test_dtype_and_the_authors_names(tmp_path):
    case = Case(tmp_path, 'full')
    state = {
        f'module.{k.replace("neck.up", "backbone.up")}': v
        for k, v in case.model.state_dict().items()
    }
    torch.save({'module': state}, tmp_path / 'authors.pth')
    convert_model(tmp_path / 'authors.pth', tmp_path / 'm.safetensors', dtype='bf16')
    found = load_file(tmp_path / 'm.safetensors')
    expected = case.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = value.bfloat16() if value.is_floating_point() else value
        assert torch.equal(found[name], same), name


def test_another_encoder_at_its_source_is_refused(tmp_path):
    case = Case(tmp_path, 'partial')
    state = load_file(case.source)
    state['cls_token'] += 1
    save_file(state, case.source)
    for call in (
        lambda: convert_model(case.folder, tmp_path / 'm.pth'),
        lambda: InternViT.from_pretrained(case.folder, num_heads=2),
    ):
        with pytest.raises(ValueError, match='and there are other weights now'):
            call()
    case.source.unlink()
    with pytest.raises(FileNotFoundError, match=r'No file or directory .*tiny.safetensors'):
        convert_model(case.folder, tmp_path / 'm.pth')


def changed(case):
    file = case.folder / 'model.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data)
    return case.folder


def cut(case):
    file = case.folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-7])
    return case.folder


def gone(case):
    (case.folder / 'model.safetensors').unlink()
    return case.folder


def no_manifest(case):
    (case.folder / 'manifest.json').write_text('{"form')
    return case.folder


def encoder(case):
    return save_tiny(case.root / 'tiny.safetensors')


@pytest.mark.parametrize(
    ('source', 'message', 'encoders'),
    [
        (changed, 'model.safetensors has changed', False),
        (cut, 'is not a complete checkpoint: model.safetensors has', True),
        (gone, 'is not a complete checkpoint: model.safetensors', True),
        (no_manifest, 'is not a complete checkpoint: manifest.json cannot be read', True),
        (encoder, 'holds an encoder and not a segmentor or detector', False),
        (lambda case: case.folder.parent, 'holds several checkpoints; name one, such as', True),
        (lambda case: case.root / 'nothing.pth', 'No file or directory', True),
    ],
)
def test_bad_sources_answer_in_one_line(source, message, encoders, tmp_path, capsys):
    path = source(Case(tmp_path, 'full'))
    targets = [('x.pth', 'model'), ('x', 'folder')] + [('x.pth', 'pth')] * encoders
    for out, kind in targets:
        assert main(path, tmp_path / out, '--to', kind) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count('\n') == 1
    assert not (tmp_path / 'x.pth').exists()
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('x.bin', '--to', 'model'), '--to model writes .safetensors or .pth'),
        (('x.pth', '--to', 'folder'), 'looks like a file: --to folder writes a folder'),
        (('no/x.pth', '--to', 'model'), 'is not a directory; make it first'),
        (('mine.pth', '--to', 'model'), 'is there already; choose another place or add --force'),
        (('mine', '--to', 'folder', '--force'), 'it is not a checkpoint alone; remove it first'),
        (('x', '--to', 'folder', '--heads-only'), '--heads-only goes with --to model'),
        (('x.pth', '--to', 'pth', '--heads-only'), 'go with --to model'),
        (('x.pth', '--to', 'model', '--num-heads', '2'), '--num-heads is for encoders'),
    ],
)
def test_bad_targets_answer_in_one_line(args, message, tmp_path, capsys):
    (tmp_path / 'mine.pth').write_text('mine')
    (tmp_path / 'mine').mkdir()
    torch.save({'backbone.x': torch.ones(1)}, tmp_path / 'source.pth')
    assert main(tmp_path / 'source.pth', tmp_path / args[0], *args[1:]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count('\n') == 1
    assert (tmp_path / 'mine.pth').read_text() == 'mine'


def test_force_replaces_what_was_written(tmp_path):
    case = Case(tmp_path, 'full')
    for out, kind in (('m.pth', 'model'), ('f', 'folder')):
        convert_model(case.folder, tmp_path / out, kind)
        convert_model(tmp_path / out, tmp_path / out, kind, force=True)
        load_weights(case.fresh(), tmp_path / out)
    assert not list(tmp_path.glob('.*'))


def test_a_real_run(tmp_path):
    run, source = tmp_path / 'run', save_tiny(tmp_path / 'tiny.safetensors')
    done = tool(
        'train', 'upernet_internvit', '--arch', 'tiny', '--tune', 'lora:4', '--weights', source,
        '--work-dir', run, *run_options(tmp_path / 'scenes', 4),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    convert_model(run / 'iter_4', tmp_path / 'm.safetensors')
    config = run / 'upernet_internvit.py'
    done = tool('test', config, tmp_path / 'm.safetensors', '--work-dir', tmp_path / 'test')
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / 'summary.json').read_text())
    assert done.stdout.splitlines()[-1] == f'mIoU: {summary["validations"][-1]["mIoU"]:.2f}'
