"""tools/prepare.py as typed, and training on the folder that it has looked through."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdet_seg.engine.inference import Segmenter
from mmdet_seg.engine.recipe import load_recipe
from tests.small_runs import tool

COLORS = np.array([(9, 9, 9), (0, 200, 0), (200, 0, 200)], np.uint8)
NAMES = ['asphalt', 'meadow', 'ball']


@pytest.fixture(scope='module')
def own(tmp_path_factory) -> Path:
    """Photos in three formats, masks in colours that belong to the classes by classes.txt only."""
    folder = tmp_path_factory.mktemp('own') / 'my data'
    (folder / 'photos').mkdir(parents=True)
    (folder / 'Labels').mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        truth = np.repeat([0, 1, 2], 28)[:, None].repeat(112, 1)
        noise = rng.integers(0, 30, (*truth.shape, 3))
        pixels = np.array([(90, 90, 90), (20, 150, 30), (200, 30, 40)])[truth] + noise
        name = f'shot {i}'
        photo = f'{name}.{("jpg", "png", "bmp")[i % 3]}'
        Image.fromarray(pixels.astype(np.uint8)).save(folder / 'photos' / photo)
        Image.fromarray(COLORS[truth]).save(folder / 'Labels' / f'{name}_mask.png')
    lines = (f'{" ".join(map(str, c))} {n}' for c, n in zip(COLORS, NAMES, strict=True))
    (folder / 'classes.txt').write_text('\n'.join(lines))
    return folder


def test_a_folder_of_ones_own_from_check_to_inference(own, tmp_path):
    early = tool('train', 'configs/upernet_internvit.py', '--data', own)
    assert early.returncode == 2
    assert f"prepare.py check '{own}'" in early.stderr
    assert len(early.stderr.splitlines()) == 1

    checked = tool('prepare', 'check', own, '--seed', 3)
    assert checked.returncode == 0, checked.stderr
    assert 'train 5, val 1 (seed 3)' in checked.stdout
    assert '0 200 0      1 meadow' in checked.stdout

    options = [f'{s}_dataloader.{k}' for s in ('train', 'val')
               for k in ('num_workers=0', 'persistent_workers=False')]  # fmt: skip
    done = tool(
        'train', 'configs/upernet_internvit.py', '--arch', 'tiny', '--data', own,
        '--work-dir', tmp_path / 'run', '--cfg-options', *options,
        'train_dataloader.batch_size=2', 'train_cfg.max_iters=12', 'train_cfg.val_interval=12',
        'param_scheduler.0.end=2', 'param_scheduler.1.begin=2', 'param_scheduler.1.end=12',
        'model.decode_head.channels=16', 'model.auxiliary_head.channels=16',
        'subset.fraction=2', 'subset.seed=1',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'Training on 2 of 5 images (1/2, seed 1)' in done.stderr
    names = (tmp_path / 'run' / 'subset_1of2_seed1.txt').read_text().splitlines()
    assert len(names) == 2
    assert all(n.startswith('photos/shot ') for n in names)
    assert 'sha256' in (tmp_path / 'run' / 'run.log').read_text()
    iou = [float(x.split()[1]) for x in done.stdout.splitlines() if x.split()[0] in NAMES]
    assert len(iou) == 3
    losses = [float(x.split()[3]) for x in done.stderr.splitlines() if x.startswith('train ')]
    assert losses[-1] < 0.8 * losses[0]

    checkpoint = next((tmp_path / 'run').glob('best_mIoU*'))
    out = tmp_path / 'out'
    inferred = tool(
        'infer', tmp_path / 'run' / 'upernet_internvit.py', checkpoint, own / 'photos', '--out', out
    )
    assert inferred.returncode == 0, inferred.stderr
    assert (out / 'classes.txt').read_text().split() == NAMES
    assert len(list((out / 'labels').iterdir())) == 6
    colors = np.unique(np.asarray(Image.open(next((out / 'colors').iterdir()))).reshape(-1, 3),
                       axis=0)  # fmt: skip
    assert {tuple(c) for c in colors} <= {tuple(c) for c in COLORS}

    bare = checkpoint / 'model.safetensors'  # weights alone: the classes come from the folder
    segmenter = Segmenter(load_recipe(str(tmp_path / 'run' / 'upernet_internvit.py')), bare)
    assert list(segmenter.classes) == NAMES
    assert segmenter.palette.tolist() == [list(c) for c in COLORS]


def test_a_wrong_count_is_status_1_with_a_list_and_no_source_is_2(tmp_path):
    source = tmp_path / 'ADEChallengeData2016.zip'
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        path = tmp_path / f'x.{suffix}'
        Image.new('L', (9, 9), 3).save(path)
        with zipfile.ZipFile(source, 'a') as archive:
            archive.write(path, f'x/{kind}/training/ADE_train_00000002.{suffix}')
    done = tool('prepare', 'ade20k', source, '--out', tmp_path / 'ade')
    assert done.returncode == 1
    assert 'training 1, validation 0 images; 2 files new, 0 there before.' in done.stdout
    assert '20210 published; missing: ADE_train_00000001.jpg, ADE_train_00000003' in done.stdout
    assert '2000 published; missing: ADE_val_00000001.jpg' in done.stdout
    assert 'ADEChallengeData2016.zip (data.csail' in done.stdout

    done = tool('prepare', 'ade20k', tmp_path / 'none.zip')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == f'prepare.py: {tmp_path / "none.zip"}: no such file or folder.\n'
