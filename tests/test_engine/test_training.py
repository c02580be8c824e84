"""The main job as a new user meets it, on a tiny scale: train, test, infer, interrupt, resume."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small_runs import ROOT, run_options, scene_options, tool

ITERS = 6


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('runs')


def train(folder: Path, name: str, *args: object, **options: object) -> subprocess.CompletedProcess:
    opts = run_options(folder / 'scenes', ITERS, **options)
    return tool(
        'train', 'configs/upernet_internvit.py', '--arch', 'tiny', '--work-dir', folder / name,
        *args, *opts,
    )  # fmt: skip


@pytest.fixture(scope='module')
def run(folder) -> tuple[Path, subprocess.CompletedProcess]:
    done = train(folder, 'first', '--tensorboard')
    assert done.returncode == 0, done.stderr
    return folder / 'first', done


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(x) for p in sorted(run_dir.rglob('scalars.json')) for x in p.open()]
    return [x['loss'] for x in lines if 'loss' in x]


def test_what_a_run_leaves_and_says(run, folder):
    path, done = run
    summary = json.loads((path / 'summary.json').read_text())
    assert summary['finished']
    assert summary['iterations'] == {'done': ITERS, 'of': ITERS}
    assert summary['seed'] == 0
    assert [v['iteration'] for v in summary['validations']] == [ITERS]
    assert summary['best']['per_class_iou'].keys() >= {'sky', 'road'}
    assert summary['seconds'] > 0
    assert 0 <= summary['wait_share'] < 1
    assert summary['peak_memory_mib']['host'] > 100
    assert summary['parameters']['trained'] == summary['parameters']['total'] > 0
    assert summary['versions'].keys() >= {'mmdet_seg', 'torch', 'mmsegmentation'}
    for picture in ('curves.png', 'predictions.png'):
        pixels = np.asarray(Image.open(path / picture).convert('L'))
        assert min(pixels.shape) > 200
        assert pixels.std() > 10
    assert list(path.rglob('events.out.tfevents*'))
    assert f'mIoU: {summary["best"]["mIoU"]:.2f}' in done.stdout.splitlines()
    assert 'sky' in done.stdout
    assert f'train {ITERS}/{ITERS}' in done.stderr
    last = next(x for x in done.stderr.splitlines() if x.startswith(f'train {ITERS}/{ITERS}'))
    words = r'loss \S+  grad \S+  lr \S+  \S+ images/s, \d+ % waiting  \S+ GiB  \S+ left'
    assert re.search(words, last)
    assert 'Warning' not in done.stderr
    # What it says to do next works as printed.
    commands = [x.split() for x in done.stdout.splitlines() if x.strip().startswith('python ')]
    assert [Path(c[1]).name for c in commands] == ['test.py', 'infer.py']
    test = subprocess.run(
        [sys.executable, *commands[0][1:], '--work-dir', str(path / 'test'),
         '--out', str(path / 'labels')],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert test.returncode == 0, test.stderr
    assert test.stdout.splitlines()[-1] == f'mIoU: {summary["best"]["mIoU"]:.2f}'
    # The label PNGs count as the data set's own: the same accuracy from the files alone.
    (masks,) = folder.glob('**/annotations/validation')
    truths = sorted(masks.iterdir())
    assert [f.name for f in sorted((path / 'labels').iterdir())] == [f.name for f in truths]
    right = labelled = 0
    for truth in truths:
        label = np.asarray(Image.open(truth))
        predicted = np.asarray(Image.open(path / 'labels' / truth.name))
        right += ((predicted == label) & (label > 0)).sum()
        labelled += (label > 0).sum()
    assert f'aAcc: {100 * right / labelled:.2f}' in test.stdout


def test_a_seed_repeats_a_run_exactly(run, folder):
    for name, seed in (('again', 0), ('other', 1)):
        done = train(folder, name, **{'randomness.seed': seed})
        assert done.returncode == 0, done.stderr
    assert len(losses(run[0])) == ITERS
    assert losses(folder / 'again') == losses(run[0])
    assert losses(folder / 'other') != losses(run[0])


def test_interrupted_and_resumed(folder):
    name = folder / 'interrupted'
    iters = 400
    args = [
        sys.executable, 'tools/train.py', 'upernet_internvit', '--arch', 'tiny',
        '--work-dir', str(name), *run_options(folder / 'scenes', iters),
        'default_hooks.checkpoint.interval=1000',
    ]  # fmt: skip
    process = subprocess.Popen(args, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith('train 20/'):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130
    assert 'Traceback' not in rest
    (stopped,) = (x for x in rest.splitlines() if x.startswith('Stopped at iteration'))
    at = int(stopped.split()[3])
    assert 20 <= at < iters
    assert (name / f'iter_{at}' / 'manifest.json').is_file()
    assert not json.loads((name / 'summary.json').read_text())['finished']

    command = stopped.split('python ')[1].split()
    done = subprocess.run(
        [sys.executable, *command, '--cfg-options', f'train_cfg.max_iters={at + 3}',
         'default_hooks.checkpoint.interval=1'],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f'Continuing from {name / f"iter_{at}"}' in done.stderr
    assert f'train {at + 1}/{at + 3}' in done.stderr
    summary = json.loads((name / 'summary.json').read_text())
    assert summary['iterations']['done'] == at + 3
    assert losses(name)[-1] < losses(name)[0]


def test_infer_takes_what_people_have(run, tmp_path):
    path, _ = run
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (61, 90, 3), np.uint8)
    folder = tmp_path / 'photos'
    folder.mkdir()
    Image.fromarray(photo).save(folder / 'rgb.jpg')
    Image.fromarray(photo[..., 0]).save(folder / 'grey.png')
    Image.fromarray(np.dstack([photo, photo[..., :1]])).save(folder / 'alpha.png')
    Image.fromarray(photo[..., 0].astype(np.uint16) * 257).save(folder / 'deep.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(folder / 'turned.jpg', exif=exif)
    Image.fromarray(photo[:1, :1]).save(folder / 'dot.png')
    checkpoint = next(path.glob('best_mIoU*'))
    config = path / 'upernet_internvit.py'
    done = tool('infer', config, checkpoint, folder, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    classes = (tmp_path / 'out/classes.txt').read_text().split('\n')[:-1]
    for kind in ('labels', 'colors', 'overlays'):
        assert len(list((tmp_path / 'out' / kind).iterdir())) == 6
    for name, size in (('rgb', (90, 61)), ('turned', (61, 90)), ('dot', (1, 1))):
        label = Image.open(tmp_path / f'out/labels/{name}.png')
        assert label.size == size
        assert np.asarray(label).max() < len(classes)

    (folder / 'broken.png').write_bytes(b'not an image')
    done = tool(
        'infer', config, checkpoint, folder / 'broken.png', folder / 'grey.png', '--out', tmp_path
    )
    assert done.returncode == 1
    assert 'broken.png is not an image that can be read' in done.stderr
    assert '1 of 2 images' in done.stdout


def test_infer_equals_test(run, tmp_path):
    """A scene's labels from infer.py are what validation scored (one pipeline, not two)."""
    path, _ = run
    summary = json.loads((path / 'summary.json').read_text())
    (scenes,) = {p.parents[2] for p in path.parent.rglob('images/validation/*.jpg')}
    done = tool(
        'infer', path / 'upernet_internvit.py', next(path.glob('best_mIoU*')),
        scenes / 'images/validation', '--out', tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    right = total = 0
    for file in (scenes / 'annotations/validation').iterdir():
        truth = np.asarray(Image.open(file)).astype(int) - 1
        label = np.asarray(Image.open(tmp_path / 'labels' / file.name))
        right += (label == truth)[truth >= 0].sum()
        total += (truth >= 0).sum()
    assert 100 * right / total == pytest.approx(summary['best']['aAcc'], abs=0.01)


MISTAKES = {
    'a wrong config name': (
        ('train', 'configs/upernet_internvt.py'),
        'Did you mean upernet_internvit',
    ),
    'a base as config': (('train', '_base_/runtime.py'), 'has no `model`'),
    'a wrong encoder': (('train', 'upernet_internvit', '--arch', '6b'), "arch='6b' is not one of"),
    'no data': (
        ('train', 'upernet_internvit', '--data', 'ade20k', '--arch', '6b-224px'),
        'No data in data/ade/ADEChallengeData2016/images/training: unpack',
    ),
    'no weights': (
        ('train', 'upernet_internvit', '--arch', '6b-224px'),
        'config.json of OpenGVLab/InternViT-6B-224px is not in the cache',
    ),
    'nothing to resume': (
        ('train', 'linear_internvit', '--resume'),
        'no complete checkpoint (iter_N)',
    ),
    'an unknown argument': (
        ('train', 'upernet_internvit', '--cfg-options', 'model.backbone.layers=3'),
        "unexpected keyword argument 'layers'",
    ),
    'an unknown type': (
        ('train', 'upernet_internvit', '--cfg-options', 'model.neck.type=Pyramid'),
        'Pyramid is not in the',
    ),
    'no option': (('train', 'upernet_internvit', '--cfg-options', 'foo'), 'foo: not KEY=VALUE'),
    'an option without a name': (
        ('train', 'upernet_internvit', '--cfg-options', '=3'),
        '=3: not KEY=VALUE',
    ),
    'an option that nothing reads': (
        ('train', 'upernet_internvit', '--cfg-options', 'max_iters=3'),
        'nothing reads max_iters; set train_cfg.max_iters.',
    ),
    'no config': (('train',), 'required: CONFIG; see train.py --help'),
    'a strategy that there is not': (
        ('train', 'upernet_internvit', '--strategy', 'zero9'),
        "invalid choice: 'zero9'",
    ),
    'no name of a folder': (('train', 'upernet_internvit', '--work-dir', ''), 'names nothing'),
    'no weights to start from': (
        ('train', 'upernet_internvit', '--cfg-options', 'load_from=nowhere.pth'),
        'load_from=nowhere.pth: no such file',
    ),
    'a plan of a model that cannot be built': (
        (
            'plan',
            'upernet_internvit',
            '--gpus',
            '1',
            '--gpu-memory',
            '80',
            '--cfg-options',
            'model.neck.type=Pyramid',
        ),
        'Pyramid is not in the',
    ),
    'a plan in gigabytes': (
        ('plan', 'upernet_internvit', '--gpus', '1', '--gpu-memory', '80GB'),
        "invalid float value: '80GB'",
    ),
    'a layout that there is not': (('convert', 'a', 'b', '--to', 'onnx'), "choice: 'onnx'"),
    'nothing to convert': (
        ('convert', 'nowhere', 'x.safetensors', '--to', 'own'),
        "No file or directory 'nowhere'",
    ),
    'no checkpoint': (('test', 'upernet_internvit', 'nowhere.pth'), 'nowhere.pth: no such'),
    'no images': (
        ('infer', 'upernet_internvit', 'nowhere.pth', 'nothing/*.jpg', '--out', 'x'),
        'nothing/*.jpg: no such image',
    ),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_mistakes_answer_in_one_line(case, tmp_path):
    args, message = MISTAKES[case]
    env = {'HF_ENDPOINT': 'http://127.0.0.1:9', 'HF_HOME': str(tmp_path / 'hub')}
    env = env if case == 'no weights' else {}
    done = tool(*args, cwd=tmp_path, **env)
    assert done.returncode == 2, done.stderr
    lines = [x for x in done.stderr.splitlines() if not x.startswith('Writing to')]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f'{args[0]}.py: ')
    assert message in lines[0]


def test_another_models_checkpoint_is_refused(run, tmp_path):
    path, _ = run
    options = [
        f'{k}={v}'.replace(' ', '') for k, v in scene_options(path.parent / 'scenes').items()
    ]
    done = tool(
        'test', 'linear_internvit', next(path.glob('best_mIoU*')), '--arch', 'tiny',
        '--work-dir', tmp_path, '--cfg-options', *options,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'is not a checkpoint of this model: it lacks decode_head.norm' in done.stderr


@pytest.mark.parametrize(
    'name', ['train', 'test', 'infer', 'convert', 'benchmark', 'export', 'plan', 'prepare']
)
def test_help_is_instant(name):
    start = time.perf_counter()
    done = tool(name, '--help')
    assert done.returncode == 0
    assert 'usage' in done.stdout
    assert time.perf_counter() - start < 5  # 0.4 s on an idle machine; a bound for a busy one
