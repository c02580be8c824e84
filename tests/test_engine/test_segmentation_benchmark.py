"""A list of pairs becomes one table, whatever happens on the way."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

import mmdet_seg  # noqa: F401  (before mmseg's models)
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.segmentation_benchmark import key, run
from mmdet_seg.engine.segmentation_list import Pair, read_list
from mmdet_seg.engine.segmentation_process import measure
from tests.small_runs import ROOT, scene_options, tool


def checkpoint(path: Path, config: str) -> Path:
    """Random weights, with logits that are large enough for several classes to win."""
    cfg = load_recipe(config, arch='tiny')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('benchmark')


@pytest.fixture(scope='module')
def pairs(folder) -> Path:
    """UperNet, a file that there is not, and a linear head, on three small scenes."""
    options = scene_options(folder / 'scenes')
    words = [f'"{k}={v}"'.replace(' ', '') for k, v in options.items() if k.startswith('test')]
    checkpoint(folder / 'u.pth', 'upernet_internvit')
    checkpoint(folder / 'l.pth', 'linear_internvit')
    lines = [
        '# tiny',
        f'upernet_internvit u.pth arch=tiny published=58.9 {" ".join(words)}',
        f'upernet_internvit gone.pth arch=tiny {" ".join(words)}',
        f'linear_internvit l.pth arch=tiny name=linear {" ".join(words)}',
    ]
    path = folder / 'list.txt'
    path.write_text('\n'.join(lines))
    return path


@pytest.mark.slow  # some ten processes start
def test_stopped_resumed_with_a_broken_pair_and_two_processes(folder, pairs, capsys):
    out = folder / 'out'
    command = [sys.executable, str(ROOT / 'tools/benchmark.py'), 'segmentation', str(pairs)]
    process = subprocess.Popen(
        [*command, '--out', str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A suite in a shell's background was told to ignore Ctrl-C; a person's tool is not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = next(line for line in process.stderr if line.startswith('1/3'))
    assert 'mIoU' in first
    assert first.rstrip().endswith('left')
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert 'Traceback' not in rest
    assert len(list((out / 'pairs').glob('*.json'))) == 1
    kept = json.loads((out / 'table.json').read_text())[0]
    assert kept['metrics']['mIoU'] > 0

    assert run(str(pairs), str(out), processes=2) == 1
    said = capsys.readouterr()
    assert 'upernet_internvit tiny u: mIoU' in said.err
    assert said.err.count('(evaluated before)') == 1
    rows = json.loads((out / 'table.json').read_text())
    assert rows[0] == kept
    assert 'gone.pth: no such checkpoint' in rows[1]['error']
    assert rows[2]['error'] is None

    # One process, in which mmengine counts without collecting.
    alone = measure({**vars(read_list(pairs)[2]), 'work_dir': str(folder / 'alone')})
    assert alone['images'] == rows[2]['images'] == 3
    assert rows[2]['metrics'] == pytest.approx(alone['metrics'])
    assert rows[2]['per_class_iou'] == alone['per_class_iou']

    # Every form of the table says the same.
    table = list(csv.DictReader((out / 'table.csv').open()))
    assert [float(table[i]['mIoU']) for i in (0, 2)] == pytest.approx(
        [rows[i]['metrics']['mIoU'] for i in (0, 2)], abs=0.005
    )
    assert table[0]['published'] == '58.90'
    assert table[1]['mIoU'] == ''
    assert float(table[2]['s/image']) > 0
    assert 100 < int(table[2]['peak MiB']) < 10_000
    assert table[2]['IoU building'] == f'{alone["per_class_iou"]["building"]:.2f}'
    text = (out / 'table.md').read_text()
    assert f'| linear | {table[2]["mIoU"]} |' in text
    assert '| building |' in text
    with Image.open(out / 'table.png') as picture:
        pixels = np.asarray(picture.convert('L'))
    assert min(pixels.shape) > 300
    assert pixels.std() > 10

    # Nothing is left to do but what failed.
    run(str(pairs), str(out))
    assert capsys.readouterr().err.count('(evaluated before)') == 2


def test_a_pair_is_known_by_its_config_and_bytes(tmp_path):
    file = tmp_path / 'x.pth'
    file.write_bytes(b'1')
    pair = Pair('c', str(file))
    found = key(pair, 'text')
    assert found == key(Pair('other name', str(file)), 'text')
    assert found != key(pair, 'text 2')
    assert found != key(Pair('c', str(file), tta=True), 'text')
    file.write_bytes(b'2')
    assert found != key(pair, 'text')


def test_the_ways_to_write_a_list(tmp_path):
    text = tmp_path / 'list.txt'
    text.write_text(
        '# comment\n\nc.py "my best.pth" arch=tiny published=47.2 tta=true crop_size=(56,56)  # x\n'
    )
    expected = Pair(
        'c.py', 'my best.pth', arch='tiny', published=47.2, tta=True,
        options={'crop_size': (56, 56)},
    )  # fmt: skip
    assert read_list(text) == [expected]
    assert expected.title == 'c tiny my best'
    entry = dict(
        config='c.py', checkpoint='my best.pth', arch='tiny', published=47.2, tta=True,
        options={'crop_size': (56, 56)},
    )  # fmt: skip
    (tmp_path / 'list.json').write_text(json.dumps([entry]))
    (found,) = read_list(tmp_path / 'list.json')
    assert found.options == {'crop_size': [56, 56]}
    (tmp_path / 'list.yaml').write_text('- {config: c.py, checkpoint: my best.pth, arch: tiny}\n')
    assert read_list(tmp_path / 'list.yaml') == [Pair('c.py', 'my best.pth', arch='tiny')]
    (tmp_path / 'my best.pth').touch()  # beside the list
    assert read_list(text)[0].checkpoint == str(tmp_path / 'my best.pth')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('x.txt', 'c.py', "line 1: 'c.py' is not CONFIG CHECKPOINT"),
        ('x.txt', '# only this', 'names no pair'),
        ('x.txt', 'c.py a.pth published=high', 'published=high is not a number'),
        ('x.txt', 'c.py a.pth\nc.py a.pth', "two pairs are called 'c a'"),
        ('x.txt', 'c.py "a.pth', 'line 1: No closing quotation'),
        ('x.json', '{"config": "c"}', 'holds no list'),
        ('x.json', '[{"config": "c"}]', 'entry 1: needs config and checkpoint'),
        ('x.yaml', '[{config: c, checkpoint: d, size: 3}]', 'size is not one of config'),
        ('x.yaml', '[', 'cannot be read'),
    ],
)
def test_what_is_not_a_list_is_said(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / name)


def test_no_list_answers_in_one_line(tmp_path):
    done = tool('benchmark', 'segmentation', 'nothing.txt', '--out', tmp_path / 'x')
    assert done.returncode == 2
    assert done.stderr.startswith('benchmark.py: nothing.txt: no such list')
    assert len(done.stderr.splitlines()) == 1
