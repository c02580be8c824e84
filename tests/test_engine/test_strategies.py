"""Two processes under any strategy compute what one process computes with the whole batch."""

import copy
import math
import signal
from pathlib import Path

import pytest
import torch

from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.strategies import NAMES, build_strategy
from tests.small_runs import NARROW, run_job, scene_options, tool

SHARED = [
    'ddp',
    pytest.param('zero1', marks=pytest.mark.slow),  # CI runs what is slow by itself
    pytest.param('zero2', marks=pytest.mark.slow),
    'zero3',
    pytest.param('zero3_offload', marks=pytest.mark.slow),
    'fsdp',
]
CROSSINGS = [
    ('fsdp', 'zero3', 2),
    ('zero3', 'fsdp', 2),
    ('alone', 'zero1', 2),
    ('zero3_offload', 'ddp', 2),
    ('zero2', 'single', 1),
    ('ddp', 'zero2', 1),
]
ITERS, HALF, BATCH = 20, 10, 4
BAD = [4, 9]  # iterations without a finite loss: the first of an accumulation, the last of another
# Everything that mmengine's DeepSpeedStrategy ignores, in float32 so that little is rounded.
OPTIONS = {
    **NARROW,
    'model.backbone.grad_checkpointing': True,
    'optim_wrapper.type': 'OptimWrapper',
    'optim_wrapper.clip_grad': {'max_norm': 0.5},
    'optim_wrapper.accumulative_counts': 2,
    'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.8,
    'ema.decay': 0.8,
    'param_scheduler.0.end': 4,
    'param_scheduler.1.begin': 4,
    'param_scheduler.1.end': ITERS,
    'train_cfg.max_iters': ITERS,
    'train_cfg.val_interval': HALF,
    'default_hooks.checkpoint.interval': HALF,
    'default_hooks.checkpoint.max_keep_ckpts': 5,
}


def run(root: Path, name: str, strategy: str, processes: int, resume=None, **more) -> dict:
    """Train in ``processes`` processes and return what the first one found."""
    options = scene_options(root / 'scenes') | OPTIONS
    options |= {'train_dataloader.batch_size': BATCH // processes, **more.pop('options', {})}
    job = {
        'config': 'upernet_internvit',
        'strategy': strategy,
        'options': options,
        'work_dir': str(root / name),
        'resume': str(resume) if resume else None,
        **more,
    }
    return run_job('tests.strategy_process', job, root / f'{name}.json', processes)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('strategies')


@pytest.fixture(scope='module')
def alone(root) -> dict:
    return run(root, 'alone', 'single', 1, bad=BAD)


def test_a_loss_that_is_not_finite_leaves_a_whole_sum_out(root, alone):
    """Of the sums that end with iterations 5 and 9, and of no other."""
    assert [i for i, loss in enumerate(alone['losses']) if math.isnan(loss)] == BAD
    assert alone['skipped'] == len(BAD)
    assert alone['updates'] == [i for i in range(1, ITERS, 2) if i not in (5, 9)]


@pytest.mark.parametrize('strategy', SHARED)
def test_the_same_mathematics(strategy, root, alone):
    found = run(root, strategy, strategy, 2, bad=BAD)
    assert len(found['losses']) == ITERS
    assert found['losses'] == pytest.approx(alone['losses'], rel=2e-6, nan_ok=True)
    assert found['skipped'] == alone['skipped']
    assert found['mIoU'] == pytest.approx(alone['mIoU'], abs=0.02)
    assert_same_checkpoints(root / strategy, root / 'alone')


def assert_same_checkpoints(ours: Path, theirs: Path) -> None:
    """Weights, their moving average, the optimizer's states and the best checkpoint."""
    names = sorted(p.name for p in ours.glob('*iter_*'))
    assert set(names) >= {f'iter_{ITERS}'}
    assert len([name for name in names if name.startswith('best_')]) == 1
    states = dict(open_folder(theirs / f'iter_{ITERS}').tensors('optimizer'))
    # Biases that a batch norm takes away again: they follow rounding, and its mean follows them.
    unguided = {k.partition('|')[0] for k, v in states.items() if v.abs().max() < 1e-18}
    assert len(unguided) <= 2
    for name in names:
        for stem in ('model', 'ema', 'optimizer'):
            found, expected = (dict(open_folder(f / name).tensors(stem)) for f in (ours, theirs))
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                if key.partition('|')[0] in unguided:
                    continue
                rel = 1e-2 if 'running_mean' in key else 2e-4
                off = (found[key] - value).abs().max()
                assert off <= rel * value.abs().max(), (name, stem, key)


@pytest.mark.slow
@pytest.mark.parametrize(('before', 'strategy', 'processes'), CROSSINGS)
def test_any_strategy_goes_on_from_any_other(before, strategy, processes, root, alone):
    if not (root / before / f'iter_{HALF}').exists():
        run(root, before, before, 2, bad=BAD)
    name = f'{before}_then_{strategy}'
    found = run(root, name, strategy, processes, root / before / f'iter_{HALF}')
    assert found['losses'] == pytest.approx(alone['losses'][HALF:], rel=2e-6)
    assert found['mIoU'] == pytest.approx(alone['mIoU'], abs=0.02)
    assert_same_checkpoints(root / name, root / 'alone')


@pytest.mark.parametrize('strategy', ['zero3', pytest.param('fsdp', marks=pytest.mark.slow)])
def test_a_full_disk_and_a_signal_while_validating(strategy, root, alone):
    """Shards are gathered for a file that cannot be written; one process of two is to stop."""
    options = {'default_hooks.checkpoint.interval': 4, 'train_cfg.val_interval': 8}
    more = {'full': 'iter_4', 'terminate': True, 'bad': BAD, 'options': options}
    found = run(root, f'{strategy}_stopped', strategy, 2, **more)
    assert found['interrupted'] == signal.SIGTERM
    assert found['losses'] == pytest.approx(alone['losses'][:8], rel=2e-6, nan_ok=True)
    assert found['validations'] == []
    folder = root / f'{strategy}_stopped'
    assert [p.name for p in folder.glob('*iter_*')] == ['iter_8']
    assert not list(folder.glob('.*'))
    # Not the moving average, which the validation had put in the weights' place.
    saved = open_folder(folder / 'iter_8')
    weights, average = (dict(saved.tensors(stem)) for stem in ('model', 'ema'))
    assert any(not torch.equal(weights[name], average[name]) for name in average)
    # The same run, from there, in one process.
    rest = run(root, f'{strategy}_rest', 'single', 1, folder / 'iter_8', bad=BAD, options=options)
    assert rest['losses'] == pytest.approx(alone['losses'][8:], rel=2e-6, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize('tune', ['head', 'partial:2', 'lora:4'])
def test_parts_train_alike(tune, root):
    options = {'options': {'model.backbone.dtype': 'float32', 'ema': {'decay': 0.5}}}
    kind = tune.partition(':')[0]
    alone = run(root, f'{kind}_alone', 'single', 1, tune=tune, **copy.deepcopy(options))
    for strategy in ('ddp', 'zero2', 'zero3', 'fsdp'):
        name = f'{kind}_{strategy}'
        found = run(root, name, strategy, 2, tune=tune, **copy.deepcopy(options))
        assert found['losses'] == pytest.approx(alone['losses'], rel=5e-6), strategy
        assert found['mIoU'] == pytest.approx(alone['mIoU'], abs=0.02), strategy


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'options', 'rel'),
    [
        ('compiled', {'compile_blocks': {'backend': 'aot_eager'}}, 5e-6),
        ('half', {'optim_wrapper.type': 'AutocastOptimWrapper'}, 1e-2),  # bfloat16
    ],
)
def test_compiled_blocks_and_bfloat16_mean_the_same(name, options, rel, root):
    alone = run(root, f'{name}_alone', 'single', 1, options=dict(options))
    for strategy in ('ddp', 'zero2', 'zero3', 'fsdp'):
        found = run(root, f'{name}_{strategy}', strategy, 2, options=dict(options))
        assert found['losses'] == pytest.approx(alone['losses'], rel=rel), strategy


@pytest.mark.slow
def test_drop_path_draws_the_same(root):
    """By process: two draw otherwise than one with the whole batch."""
    options = {'model.backbone.drop_path_rate': 0.5}
    expected = run(root, 'dropped_ddp', 'ddp', 2, options=dict(options))
    plain = run(root, 'undropped_ddp', 'ddp', 2)
    assert expected['losses'] != pytest.approx(plain['losses'], rel=1e-3)
    for strategy in ('zero2', 'zero3', 'fsdp'):
        found = run(root, f'dropped_{strategy}', strategy, 2, options=dict(options))
        # Updates of what was dropped are divided by next to nothing: rounding grows.
        assert found['losses'][:10] == pytest.approx(expected['losses'][:10], rel=5e-6), strategy
        assert found['losses'] == pytest.approx(expected['losses'], rel=2e-4), strategy


def test_a_killed_and_resumed_run_repeats_to_the_last_bit(root, alone):
    found = run(root, 'again', 'single', 1, root / 'alone' / f'iter_{HALF}')
    assert found['losses'] == alone['losses'][HALF:]
    assert found['mIoU'] == alone['mIoU']


def test_the_command_line_knows_them_all():
    shown = tool('train', '--help', COLUMNS='200').stdout
    assert '--strategy {' + ','.join(NAMES) + '}' in shown


@pytest.mark.parametrize(
    ('strategy', 'options', 'message'),
    [
        ('zero4', {}, 'there are single, ddp, zero1'),
        (None, {'optim_wrapper.accumulative_counts': 7}, 'max_iters=540 is not a multiple of'),
        ('fsdp', {'optim_wrapper.type': 'AmpOptimWrapper'}, 'does not; set it to Autocast'),
        ('zero2', {'optim_wrapper.clip_grad': dict(type='value')}, 'clips by the 2-norm only'),
        ('zero3', {'optim_wrapper.clip_grad': dict(norm_type=1)}, 'clips by the 2-norm only'),
    ],
)
def test_what_a_strategy_does_not_know_is_said(strategy, options, message):
    cfg = load_recipe('upernet_internvit', arch='tiny', options=options)
    cfg.strategy = strategy
    with pytest.raises(ValueError, match=message):
        build_strategy(cfg)


def test_one_process_strategy_in_two(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    cfg = load_recipe('upernet_internvit', arch='tiny')
    cfg.strategy = 'single'
    with pytest.raises(ValueError, match='single runs in one process, not in 2'):
        build_strategy(cfg)
