"""Detectors in two processes: as one process computes, whatever the strategy."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mmdet_seg.engine.evaluation import evaluate
from tests.small_runs import ROOT, launcher, run_job, scene_options, tool

ITERS = 4
EVERYTHING = 10**6  # a sampler that takes all there is draws nothing
SMALL = {
    'train_dataloader.dataset.pipeline.2.scale': (320, 128),
    'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
    'train_cfg.max_iters': ITERS,
    'train_cfg.val_interval': ITERS,
    'default_hooks.checkpoint.interval': ITERS // 2,
    'default_hooks.checkpoint.max_keep_ckpts': 5,
    'optim_wrapper.type': 'OptimWrapper',
}
SCHEDULE = {
    'param_scheduler.0.end': 2,
    'param_scheduler.1.begin': 2,
    'param_scheduler.1.end': ITERS,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('detectors')


def run(root: Path, name: str, config: str, strategy: str, processes: int, **more) -> dict:
    options = scene_options(root / 'scenes') | SMALL | {'train_dataloader.batch_size': 1}
    job = {
        'config': config,
        'strategy': strategy,
        'options': options | more.pop('options', {}),
        'work_dir': str(root / name),
        **more,
    }
    return run_job('tests.strategy_process', job, root / f'{name}.json', processes)


@pytest.fixture(scope='module')
def command(root) -> tuple[Path, str]:
    """A run as a person starts it, and what it says."""
    options = scene_options(root / 'scenes') | SMALL | SCHEDULE
    options['model.test_cfg.rcnn.score_thr'] = 0.0
    given = [f'{k}={v}'.replace(' ', '') for k, v in options.items()]
    run = root / 'command'
    command = [
        *launcher(2), ROOT / 'tools/train.py', 'mask_rcnn_internvit', '--arch', 'tiny',
        '--strategy', 'ddp', '--work-dir', run, '--cfg-options', *given,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def test_one_process_finds_what_two_found(root, command, capsys):
    """In the file that the checkpoint is converted to."""
    run, said = command
    (validation,) = json.loads((run / 'summary.json').read_text())['validations']
    figures = {k: v for k, v in validation.items() if k.startswith(('bbox_', 'segm_'))}
    assert f'segm_AP50: {figures["segm_AP50"]:.2f}' in said.splitlines()

    done = tool('convert', run / f'iter_{ITERS}', root / 'model.safetensors', '--to', 'model')
    assert done.returncode == 0, done.stderr
    config = str(run / 'mask_rcnn_internvit.py')
    evaluate(config, str(root / 'model.safetensors'), work_dir=str(root / 'test'))
    shown = capsys.readouterr().out.replace('  ', '\n').splitlines()
    assert set(shown) >= {f'{k}: {v:.2f}' for k, v in figures.items()}


@pytest.mark.slow
def test_one_process_goes_on(root, command):
    run, _ = command
    middle = run / f'iter_{ITERS // 2}'
    config = run / 'mask_rcnn_internvit.py'
    done = tool('train', config, '--resume', middle, '--work-dir', root / 'further')
    assert done.returncode == 0, done.stderr
    assert f'train {ITERS}/{ITERS}' in done.stderr


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(root):
    """A step of two processes is two steps of one whose gradients are summed up first."""
    options = {
        # Batch norms would count over the batch; samplers draw by process.
        'model.neck': {'_delete_': True, 'type': 'mmdet_seg.SimplePyramid', 'out_channels': 64},
        'model.semantic_head': None,
        'model.train_cfg.rpn.sampler.num': EVERYTHING,
        'model.train_cfg.rcnn.sampler.num': EVERYTHING,
        'param_scheduler': None,
    }
    two = run(root, 'two', 'mask_rcnn_internvit', 'ddp', 2, options=options)
    one = {
        'optim_wrapper.accumulative_counts': 2,
        'train_cfg.max_iters': 2 * ITERS,
        'train_cfg.val_interval': 2 * ITERS,
    }
    one = run(root, 'one', 'mask_rcnn_internvit', 'single', 1, options=options | one)
    pairs = zip(one['losses'][::2], one['losses'][1::2], strict=True)
    assert two['losses'] == pytest.approx([(a + b) / 2 for a, b in pairs], rel=1e-4)
    assert two['validations'][0] == pytest.approx(one['validations'][0], abs=0.02)


# Small steps: with large ones the rounding of a step decides which boxes are matched in the next.
SLOWLY = SCHEDULE | {'optim_wrapper.optimizer.lr': 1e-4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'strategies', 'options'),
    [
        ('mask_rcnn_internvit', ('zero1', 'zero2', 'zero3', 'zero3_offload', 'fsdp'), {}),
        ('cascade_mask_rcnn_internvit', ('zero3', 'fsdp'), {}),
        ('mask_rcnn_adapter_internvit', ('zero3', 'fsdp'), {}),
        ('mask_rcnn_internvit_frozen', ('zero3', 'fsdp'), {}),
        ('dino_internvit', ('zero3', 'fsdp'), {'model.num_queries': 20}),
        ('eomt_internvit_panoptic', ('zero3', 'fsdp'), {}),
    ],
)
def test_every_strategy_computes_what_ddp_computes(config, strategies, options, root):
    """Boxes decide which layers of a second stage run, and differ between the processes."""
    options = SLOWLY | options
    expected = run(root, f'{config}_ddp', config, 'ddp', 2, options=options)
    assert len(expected['losses']) == ITERS
    for strategy in strategies:
        found = run(root, f'{config}_{strategy}', config, strategy, 2, options=options)
        assert found['losses'] == pytest.approx(expected['losses'], rel=2e-5), strategy
        assert found['validations'] == [pytest.approx(v, abs=0.02) for v in expected['validations']]


@pytest.mark.slow
@pytest.mark.parametrize(('before', 'after'), [('ddp', 'zero3'), ('zero3', 'fsdp')])
def test_another_strategy_goes_on(before, after, root):
    name, options = 'cascade_mask_rcnn_internvit', SLOWLY
    whole = run(root, f'go_{before}', name, before, 2, options=options)
    resume = str(root / f'go_{before}' / f'iter_{ITERS // 2}')
    found = run(root, f'go_on_{after}', name, after, 2, options=options, resume=resume)
    assert found['losses'] == pytest.approx(whole['losses'][ITERS // 2 :], rel=2e-5)
