"""Detection as a person meets it, on a tiny scale: train, resume, test, infer."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file

from tests.run_folders import save_tiny
from tests.small_runs import scene_options, tool

ITERS = 4


def options(root: Path, **more: object) -> list[str]:
    entries = scene_options(root) | {
        'train_dataloader.dataset.pipeline.2.scale': (320, 128),
        'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
        'train_cfg.max_iters': ITERS,
        'train_cfg.val_interval': ITERS,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.begin': 2,
        'param_scheduler.1.end': ITERS,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
        'model.test_cfg.rcnn.score_thr': 0.0,  # hardly trained, it is sure of nothing
        'model.test_cfg.rcnn.max_per_img': 5,
        **more,
    }
    return ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in entries.items())]


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('detection')
    done = tool(
        'train', 'configs/mask_rcnn_internvit.py', '--arch', 'tiny', '--work-dir', folder / 'run',
        *options(folder / 'scenes'),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / 'said.txt').write_text(done.stdout)
    return folder / 'run'


def test_what_a_run_leaves_and_says(run):
    summary = json.loads((run / 'summary.json').read_text())
    best = summary['best']
    assert summary['finished']
    assert best['per_class_ap'].keys() == {'person', 'car', 'bus', 'boat', 'cow'}
    assert best['per_class_ap']['person'].keys() == {'box AP', 'box AP50', 'mask AP', 'mask AP50'}
    assert {p.name for p in run.iterdir()} >= {f'iter_{ITERS}', f'best_segm_AP50_iter_{ITERS}'}
    for picture in ('curves.png', 'predictions.png'):
        pixels = np.asarray(Image.open(run / picture).convert('L'))
        assert min(pixels.shape) > 200
        assert pixels.std() > 10
    said = (run.parent / 'said.txt').read_text()
    assert 'mask AP50' in said
    assert f'segm_AP50: {best["segm_AP50"]:.2f}' in said.splitlines()
    assert f'bbox_AP50: {best["bbox_AP50"]:.2f}' in said


def test_it_goes_on(run):
    done = tool(
        'train', run / 'mask_rcnn_internvit.py', '--resume', run / f'iter_{ITERS - 2}',
        '--work-dir', run.parent / 'again', '--cfg-options', f'train_cfg.max_iters={ITERS}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [
        [
            json.loads(x)['loss']
            for p in folder.rglob('scalars.json')
            for x in p.open()
            if 'loss' in x
        ]
        for folder in (run, run.parent / 'again')
    ]
    assert losses[0][ITERS - 2 :] == losses[1]


def test_test_and_infer_find_the_same(run, tmp_path):
    checkpoint = next(run.glob('best_segm_AP50*'))
    config = run / 'mask_rcnn_internvit.py'
    done = tool('test', config, checkpoint, '--work-dir', tmp_path / 'test', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    best = json.loads((run / 'summary.json').read_text())['best']
    assert done.stdout.splitlines()[-1] == f'segm_AP50: {best["segm_AP50"]:.2f}'
    (scenes,) = {p.parents[2] for p in run.parent.rglob('images/validation/*.jpg')}
    truth = COCO(scenes / 'annotations/instances_val.json')
    for kind in ('bbox', 'segm'):
        results = json.loads((tmp_path / f'results.{kind}.json').read_text())
        assert len(truth.loadRes(results).getAnnIds()) == len(results) > 0
        assert {r['category_id'] for r in results} <= set(truth.getCatIds())

    done = tool(
        'infer', config, checkpoint, scenes / 'images/validation', '--out', tmp_path / 'out',
        '--min-score', '0',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / 'out/overlays').iterdir())) == 3
    found = COCO(tmp_path / 'out/predictions.json')
    masks = [found.annToMask(a) for a in found.loadAnns(found.getAnnIds())]
    assert [int(m.sum()) for m in masks] == [a['area'] for a in found.dataset['annotations']]
    names = {i['id']: Path(i['file_name']).name for i in found.dataset['images']}
    theirs = {i['id']: i['file_name'] for i in truth.dataset['images']}
    scores = sorted((names[a['image_id']], a['score']) for a in found.dataset['annotations'])
    expected = sorted((theirs[r['image_id']], r['score']) for r in results)
    assert [x[0] for x in scores] == [x[0] for x in expected]
    assert np.allclose([x[1] for x in scores], [x[1] for x in expected], atol=2e-3)


def test_several_scales(run, tmp_path):
    checkpoint = next(run.glob('best_segm_AP50*'))
    done = tool('test', run / 'mask_rcnn_internvit.py', checkpoint, '--tta', '--work-dir', tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'segm_AP50: ' in done.stdout.splitlines()[-1]
    assert (tmp_path / 'results.segm.json').is_file()


@pytest.mark.slow
def test_adapters_train_and_merge(tmp_path):
    """LoRA on a detector's encoder; summed into the weights it finds the same."""
    source = save_tiny(tmp_path / 'tiny.safetensors')
    given = options(tmp_path / 'scenes', **{'optim_wrapper.optimizer.lr': 0.01})
    small = ('configs/mask_rcnn_internvit.py', '--arch', 'tiny')
    run = tmp_path / 'run'
    done = tool('train', *small, '--tune', 'lora:2', '--weights', source, '--work-dir', run, *given)
    assert done.returncode == 0, done.stderr
    done = tool('convert', run / f'iter_{ITERS}', tmp_path / 'm.safetensors', '--to', 'model',
                '--merge-lora')  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / 'm.safetensors')
    start = {
        f'backbone.{k}': v.float() for k, v in load_file(source).items() if '.blocks.' in f'.{k}'
    }
    assert start.keys() < merged.keys()
    save_file(merged | start, tmp_path / 'without.safetensors')
    bf16 = [*given, 'model.backbone.dtype=bf16']  # as what the adapters left frozen
    boxes = []
    for words in (
        (run / 'mask_rcnn_internvit.py', run / f'iter_{ITERS}'),
        (small[0], tmp_path / 'm.safetensors', *small[1:], *bf16),
        (small[0], tmp_path / 'without.safetensors', *small[1:], *bf16),
    ):
        out = tmp_path / f'out{len(boxes)}'
        done = tool('test', *words, '--out', out, '--work-dir', tmp_path / 'test')
        assert done.returncode == 0, done.stderr
        results = json.loads((out / 'results.bbox.json').read_text())
        boxes.append(np.array([[r['image_id'], *r['bbox'], r['score']] for r in results]))
    assert len(boxes[0]) == 15
    assert np.allclose(boxes[0], boxes[1], atol=0.01)
    assert not np.allclose(boxes[0][:, -1], boxes[2][:, -1], atol=1e-3)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('--data', 'coco'), 'No data in data/coco/train2017: get train2017.zip'),
        (('--data', 'ade20k'), 'mask_rcnn_internvit predicts; it takes coco, scenes'),
    ],
)
def test_mistakes_answer_in_one_line(args, message, tmp_path):
    done = tool('train', 'mask_rcnn_internvit', *args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('train.py: ')
    assert message in line
