"""tools/probe.py classify from the command line to what it leaves."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmdet_seg.probes import classify_command
from mmdet_seg.probes.classify_data import open_data
from mmdet_seg.probes.classify_inputs import EachOnce, Reads
from mmdet_seg.probes.classify_train import HeadBank
from mmdet_seg.probes.classify_views import Views
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.frozen_encoder import open_encoder
from mmdet_seg.probes.results import Results
from tests.test_probes.classify_cases import small_images

ROOT = Path(__file__).parents[2]
WNIDS = [f'n{i:08d}' for i in range(4)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four classes of coloured noise as folders, and A and ReaL beside them."""
    root = tmp_path_factory.mktemp('data') / 'squares'
    for part, count, seed in (('train', 48, 0), ('val', 24, 1)):
        images = small_images(count, seed=seed)
        for i, label in enumerate(images.labels):
            path = root / part / WNIDS[label] / f'ILSVRC2012_{part}_{i + 1:08d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            images.image(i).save(path)
    for label in (1, 3):
        other = root.parent / 'imagenet-a' / WNIDS[label]
        other.mkdir(parents=True)
        for path in list((root / 'val' / WNIDS[label]).glob('*.png'))[:3]:
            Image.open(path).save(other / path.name)
    labels = small_images(24, seed=1).labels.tolist()
    (root.parent / 'imagenet-real').mkdir()
    (root.parent / 'imagenet-real/real.json').write_text(json.dumps([[x] for x in labels]))
    return root


def classify(out, *words):
    parser = argparse.ArgumentParser()
    classify_command.add_arguments(parser)
    base = ['random:tiny', '--size', '28', '--workers', '0', '--pictures', '2']
    base += ['--store', str(out.parent / 'store'), '--out', str(out)]
    classify_command.main(parser.parse_args([*base, *map(str, words)]))
    return Results.read(out)


def test_the_published_probe_and_its_head_tested_again(folder, tmp_path, capsys):
    words = ('--data', folder, '--eval', 'in-1k,a,real')
    found = classify(
        tmp_path / 'a', *words, '--batch', 16, '--epochs', 4, '--lr', '0.1,1', '--layers', '1,3'
    )
    assert len(found.rows) == 4
    best = found.best()
    assert best['score'] > 60  # one of four at random is 25
    assert best['scores']['real'] == pytest.approx(best['score'])  # the same labels
    assert 0 <= best['scores']['a'] <= 100
    assert set(best['per_class']) == set(WNIDS)
    assert found.curves[best['name']]['score'][-1] == [12, pytest.approx(best['score'])]
    assert found.cost['images_per_second'] > 0
    assert any('best of 4 heads' in note for note in found.notes)
    assert any('batch 16 (1024)' in note for note in found.notes)
    for picture in found.pictures:
        assert Image.open(tmp_path / 'a' / picture['file']).width > 50
    assert (tmp_path / 'a/report.html').stat().st_size > 1000
    assert 'Look at' in capsys.readouterr().out
    again = classify(tmp_path / 'b', *words, '--head', tmp_path / 'a/best_head.safetensors')
    assert again.best()['layers'] == best['layers']
    for name, score in best['scores'].items():
        assert again.best()['scores'][name] == pytest.approx(score)


def test_an_interrupted_comparison_does_not_train_its_finished_half_again(
    folder, tmp_path, monkeypatch
):
    """Ctrl-C in the second of the two runs of ``--quantize``; then the same command."""
    words = ('--data', folder, '--epochs', '2', '--batch', '8', '--lr', '0.1', '--quantize', 'int8')
    step, banks = HeadBank.step, []

    def counted(bank, *given):
        banks.append(bank)
        if stopped and len(banks) == 12 + 3:
            raise KeyboardInterrupt
        return step(bank, *given)

    monkeypatch.setattr(HeadBank, 'step', counted)
    stopped = True
    with pytest.raises(KeyboardInterrupt):
        classify(tmp_path / 'run', *words)
    assert banks == [banks[0]] * 12 + [banks[-1]] * 3
    assert banks[0] is not banks[-1]
    stopped = False
    banks.clear()
    (row,) = classify(tmp_path / 'run', *words).rows
    assert banks == [banks[0]] * 10
    assert 'score_unquantized' in row
    assert not list(tmp_path.rglob('training.pt'))


def test_new_views_and_attention_pooling(folder, tmp_path):
    found = classify(
        tmp_path / 'a',
        *('--data', folder, '--pool', 'attention_pooling,cls_patch_concat'),
        *('--batch', 16, '--epochs', 2, '--ema', 0.5, '--crop-ratio', 0.9),
    )
    assert {r['combine'] for r in found.rows} == {'attention_pooling', 'cls_patch_concat'}
    assert not any('fixed views' in note for note in found.notes)
    again = classify(
        tmp_path / 'b',
        *('--data', folder, '--head', tmp_path / 'a/best_head.safetensors', '--crop-ratio', 0.9),
    )
    assert again.best()['score'] == pytest.approx(found.best()['score'])


def test_the_grid_of_dinov2_on_fixed_views(folder, tmp_path):
    found = classify(
        tmp_path / 'a',
        *('--data', folder, '--protocol', 'dinov2', '--views', 2, '--batch', 16, '--epochs', 3),
    )
    assert len(found.rows) == 13 * 2 * 2
    assert {tuple(r['layers']) for r in found.rows} == {(3,), (0, 1, 2, 3)}
    assert sum(r['per_class'] is not None for r in found.rows) == 1
    assert any('2 fixed views' in note for note in found.notes)
    assert found.cost['disk_bytes'] > 0


@pytest.mark.parametrize('protocol', ['knn', 'logreg'])
def test_fits_on_stored_features_read_every_layer(folder, tmp_path, protocol):
    words = ('--data', folder, '--protocol', protocol, '--k', '1,5', '--C', '0.1,1')
    found = classify(tmp_path / 'a', *words)
    assert {tuple(r['layers']) for r in found.rows} == {(0,), (1,), (2,), (3,)}
    assert found.best()['score'] > 60
    assert len(found.rows) == (16 if protocol == 'knn' else 8)
    again = classify(tmp_path / 'b', *words)
    assert again.cost['encoder_seconds'] == 0  # everything was there
    assert [r['score'] for r in again.rows] == [r['score'] for r in found.rows]
    # Training on what the test sees reads the same features.
    sgd = ('--data', folder, '--layers', 'all', '--batch', 8, '--no-augment', '--mixup', 0)
    plain = classify(tmp_path / 'd', *sgd, '--cutmix', 0, '--norm', 'bn,none')
    assert plain.cost['encoder_seconds'] == 0
    assert len(plain.rows) == 8
    assert any('no crops' in note for note in plain.notes)
    assert not any('fixed views' in note for note in plain.notes)
    if protocol == 'logreg':
        head = ('--data', folder, '--head', tmp_path / 'a/best_head.safetensors')
        tested = classify(tmp_path / 'c', *head)
        assert tested.best()['score'] == pytest.approx(found.best()['score'])


def test_a_head_in_the_authors_layout_is_tested_without_training(folder, tmp_path):
    """Top-1 is that of PyTorch's own layers on the same features."""
    torch.manual_seed(0)
    norm, linear = torch.nn.BatchNorm1d(64, eps=1e-6), torch.nn.Linear(64, 4)
    norm.running_mean.normal_(0, 0.02)
    state = {f'norm.{k}': v for k, v in norm.state_dict().items()}
    state |= {f'head.{k}': v for k, v in linear.state_dict().items()}
    head = tmp_path / 'intern_vit_head.pth'
    torch.save({'model': state}, head)
    found = classify(tmp_path / 'a', '--data', folder, '--head', head)
    val = open_data(str(folder)).val
    store = EachOnce(
        Reader(open_encoder('random:tiny')), val, Views(28), Reads((3,)), tmp_path / 's', ''
    )
    x = torch.cat([inputs.of([3], 'cls_patch_concat') for _, inputs in store])
    guesses = linear(norm.eval()(x)).argmax(1).numpy()
    assert found.best()['score'] == pytest.approx(100 * (guesses == val.labels).mean())
    assert found.protocol == 'head'
    wide = {**state, 'head.weight': torch.zeros(4, 96), 'norm.weight': torch.ones(96)}
    wide |= {k: torch.ones(96) for k in ('norm.bias', 'norm.running_mean', 'norm.running_var')}
    torch.save(wide, head)
    with pytest.raises(ValueError, match=r'reads 96 features, random:tiny gives 64'):
        classify(tmp_path / 'a', '--data', folder, '--head', head)
    torch.save({**state, 'head.weight': torch.zeros(9, 64), 'head.bias': torch.zeros(9)}, head)
    with pytest.raises(ValueError, match=r'tells 9 classes apart, squares has 4'):
        classify(tmp_path / 'a', '--data', folder, '--head', head)


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (['--size', '30'], r'--size 30 is no multiple of the patch of 14.*28'),
        (['--layers', '9'], r'layer 9 is not one of the 4 blocks'),
        (['--pool', 'cls'], r'--pool cls: there is class, mean'),
        (['--pool', 'clip_projector'], r'random:tiny.*clip projector'),
        (
            ['--pool', 'attention_pooling', '--views', '1', '--batch', '8'],
            r'attention pooling reads all tokens',
        ),
        (['--protocol', 'knn', '--views', '1'], r'--views: knn reads each image once'),
        (['--protocol', 'knn', '--pool', 'attention_pooling'], r'is trained'),
        (['--protocol', 'dinov2', '--last-blocks', '5'], r'--last-blocks 5: .* has 4 blocks'),
        (['--lr', 'fast'], r'--lr fast: give numbers'),
        (['--limit', '0'], r'--limit 0 is not above 0'),
        (['--head', 'none.pth'], r'--head none.pth: no such file'),
        (['--eval', 'r'], r'--eval r: there is no .*imagenet-r'),
        (['--final-norm'], r'--final-norm: random:tiny has none'),
        ([], r'48 training images do not fill a batch of 1024: --batch 8'),
    ],
)
def test_mistakes_answer_in_one_line(folder, tmp_path, words, line):
    with pytest.raises((ValueError, FileNotFoundError), match=line) as error:
        classify(tmp_path / 'a', '--data', folder, *words)
    assert not re.search(r'\n', str(error.value))


@pytest.mark.slow
def test_the_tool_itself(folder, tmp_path):
    def run(*words):
        command = [sys.executable, 'tools/probe.py', 'classify', 'random:tiny', *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(
        *('--data', str(folder), '--size', '28', '--protocol', 'knn', '--k', '3'),
        *('--store', str(tmp_path / 'store'), '--out', str(tmp_path / 'out')),
    )
    assert done.returncode == 0, done.stderr
    assert 'layer 3, class, k 3' in done.stdout
    wrong = run('--data', str(tmp_path / 'nothing'))
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert np.isfinite(Results.read(tmp_path / 'out').best()['score'])
