"""What goes wrong during a run: one clear line each, and nothing lost."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from mmdet_seg.command_line import Failure
from mmdet_seg.engine import checkpoint_folder
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.guard import NonFiniteLoss
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.runner import build_runner
from mmdet_seg.engine.training import train
from mmdet_seg.registry import MODELS
from tests.small_runs import ROOT, run_options, small_run


def config(root: Path, iters: int = 6, **more):
    options = small_run(root / 'scenes', iters, **more)
    cfg = load_recipe('upernet_internvit', arch='tiny', options=options)
    cfg.work_dir = str(root / 'run')
    return cfg


def run(cfg, *hooks: Hook):
    runner = build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


class Weights(Hook):
    """Changes the loss of some iterations, and keeps a weight of after each."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad
        self.kept: list[torch.Tensor] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        head = runner.strategy.model.decode_head
        head.loss_decode.loss_weight = math.nan if batch_idx in self.bad else 1.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.kept.append(runner.strategy.model.decode_head.conv_seg.weight.detach().clone())


def test_an_update_that_is_not_finite_is_left_out(tmp_path):
    hook = Weights(bad=(1, 2))
    runner = run(config(tmp_path), hook)
    assert runner.guard.skipped == 2
    assert torch.equal(hook.kept[0], hook.kept[2])
    assert not torch.equal(hook.kept[2], hook.kept[3])


def test_nor_does_it_reach_the_statistics_of_batch_norms(tmp_path):
    class Overflow(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            norm = runner.strategy.model.decode_head.fpn_bottleneck.bn
            if batch_idx == 2:
                self.before = norm.running_var.clone()
                norm.register_forward_pre_hook(lambda _, args: (args[0] * math.inf,))
            elif batch_idx == 3:
                norm._forward_pre_hooks.clear()
                assert torch.equal(norm.running_var, self.before)

    runner = run(config(tmp_path), Overflow())
    assert runner.guard.skipped == 1
    saved = dict(open_folder(tmp_path / 'run/iter_6').tensors('model'))
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    norm = runner.strategy.model.decode_head.fpn_bottleneck.bn
    assert (norm.running_mean != 0).any()


def test_checkpoints_and_signals_wait_for_the_update(tmp_path):
    """With two steps per update, half a sum of gradients would be lost."""

    class Stop(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            if batch_idx == 3:
                signal.raise_signal(signal.SIGTERM)  # agreed on in iteration 5, the first of two

    options = {'optim_wrapper.accumulative_counts': 2, 'default_hooks.checkpoint.interval': 3}
    runner = run(config(tmp_path, iters=8, **options), Stop())
    assert runner.interrupted == signal.SIGTERM
    folder = tmp_path / 'run'
    assert sorted(p.name for p in folder.glob('iter_*')) == ['iter_4', 'iter_6']
    cfg = config(tmp_path, iters=8, **options)
    cfg.resume, cfg.load_from = True, str(folder / 'iter_4')
    assert run(cfg).iter == 8
    # Two are kept: the one of iteration 4 goes with the one of iteration 8.
    assert sorted(p.name for p in folder.glob('iter_*')) == ['iter_6', 'iter_8']


def test_a_checkpoint_goes_when_the_next_but_one_is_complete(tmp_path, monkeypatch):
    seen = []
    original = checkpoint_folder._Writer.finish

    def finish(self, facts) -> None:
        before = {p.name for p in self.target.parent.glob('iter_*')}
        original(self, facts)
        after = {p.name for p in self.target.parent.glob('iter_*')}
        seen.append((before, after))

    monkeypatch.setattr(checkpoint_folder._Writer, 'finish', finish)
    cfg = config(tmp_path, iters=6, **{'train_cfg.val_interval': 100})
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.default_hooks.checkpoint.save_best = None
    run(cfg)
    assert seen == [
        (set(), {'iter_2'}),
        ({'iter_2'}, {'iter_2', 'iter_4'}),  # both, until it is complete
        ({'iter_4'}, {'iter_4', 'iter_6'}),
    ]
    assert [p.name for p in (tmp_path / 'run').glob('iter_*')] == ['iter_6']


def test_weights_and_biases_is_told(tmp_path, monkeypatch):
    """Through mmengine's backend; the package itself is replaced by one that listens."""
    told = []
    settings = SimpleNamespace(update=lambda values, **_: told.append(('config', values)))
    listener = ModuleType('wandb')
    listener.__spec__ = ModuleSpec('wandb', None)
    listener.init = lambda **kwargs: told.append(('init', kwargs))
    listener.define_metric = lambda *args, **kwargs: None
    listener.config = settings
    listener.log = lambda values, **kwargs: told.append(('log', values))
    listener.join = lambda: None
    listener.run = SimpleNamespace(dir=str(tmp_path), log_code=lambda **kwargs: None)
    monkeypatch.setitem(sys.modules, 'wandb', listener)
    # Another name: mmengine takes up a visualizer of an earlier run in the same process.
    options = small_run(tmp_path / 'scenes', 4, **{'visualizer.name': 'listener'})
    status = train(
        'upernet_internvit', arch='tiny', work_dir=str(tmp_path / 'run'), wandb='mine',
        options=options,
    )  # fmt: skip
    assert status == 0
    assert [x['project'] for kind, x in told if kind == 'init'] == ['mine']
    logged = [x for kind, x in told if kind == 'log']
    assert len([x for x in logged if 'loss' in x and 'lr' in x]) == 4
    assert [x['mIoU'] for x in logged if 'mIoU' in x]


def test_without_weights_and_biases(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    monkeypatch.setattr('mmdet_seg.engine.training.find_spec', lambda name: None)
    with pytest.raises(ValueError, match='--wandb needs Weights & Biases: pip install wandb'):
        train('upernet_internvit', arch='tiny', wandb='mine')


def test_three_in_a_row_stop_and_name_the_files(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r'not finite 3 times in a row.*scene.*\.jpg'):
        run(config(tmp_path), Weights(bad=(2, 3, 4)))
    newest = open_folder(tmp_path / 'run/iter_4')
    assert all(torch.isfinite(t).all() for _, t in newest.tensors('model'))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    class Break(Hook):  # not before: the scenes are mended when they are built
        def before_train(self, runner) -> None:
            self.file = sorted(tmp_path.rglob('images/training/*.jpg'))[3]
            self.file.write_bytes(b'no image')

    breaks = Break()
    with pytest.raises(ValueError, match=r'scene.*\.jpg cannot be used .*, 1 of at most 0 in this'):
        run(config(tmp_path), breaks)
    runner = run(config(tmp_path, unreadable_limit=1), breaks)
    assert list(runner.train_loop.replaced) == [str(breaks.file)]
    assert runner.iter == 6


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    from mmdet_seg.engine.checkpoint_folder import _open

    original = _open.write

    def write(self, data) -> None:
        if self.file is not None and self.writer.target.name == 'iter_6':
            self.file = Path('/dev/full').open('wb', buffering=0)  # noqa: SIM115
        original(self, data)

    monkeypatch.setattr(checkpoint_folder._open, 'write', write)
    with pytest.raises(Failure, match='iter_6 could not be saved: No space left on device'):
        run(config(tmp_path))
    assert 'Earlier ones are intact' in capsys.readouterr().err
    folder = tmp_path / 'run'
    assert sorted(p.name for p in folder.glob('*iter_*')) == [
        'best_mIoU_iter_6',
        'iter_2',
        'iter_4',
    ]
    assert not list(folder.glob('.*'))
    assert open_folder(folder / 'iter_4').iteration == 4


def train_until_it_says(start: str, tmp_path: Path) -> subprocess.Popen:
    """A long run with a process that loads, in a group of its own, which has said so much."""
    options = run_options(tmp_path / 'scenes', 4000, **{'train_dataloader.num_workers': 1})
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools/train.py', 'upernet_internvit', '--arch', 'tiny',
         '--work-dir', tmp_path / 'run', *options],
        stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        start_new_session=True,
    )  # fmt: skip
    assert any(line.startswith(start) for line in process.stderr)
    return process


def test_a_dead_worker_is_one_line(tmp_path):
    process = train_until_it_says('train 1/', tmp_path)
    for pid in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    rest = [x for x in process.stderr.read().splitlines() if not x.startswith('train ')]
    assert process.wait(timeout=60) == 1
    assert len(rest) == 1
    assert re.search(r'^train.py: A process that loads data died after .*num_workers', rest[0])


def test_a_signal_to_all_processes_of_a_group_saves(tmp_path):
    """As Slurm and ``timeout`` send it: those that load live until the main one has saved."""
    process = train_until_it_says('train 1/', tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    (last,) = [x for x in process.stderr.read().splitlines() if not x.startswith('train ')]
    assert process.wait(timeout=60) == 143
    assert re.search(r'^Stopped at iteration \d+ of 4000, saved', last)
    (folder,) = (tmp_path / 'run').glob('iter_*')
    assert open_folder(folder).iteration > 0


def test_the_average_is_what_is_validated_and_kept(tmp_path):
    cfg = config(tmp_path, ema=dict(decay=0.5), randomness=dict(seed=3))
    hook = Weights()
    runner = run(cfg, hook)
    average = hook.kept[0]
    first = runner.ema.parts['decode_head.conv_seg.weight']
    for weight in hook.kept[1:]:
        average = average.lerp(weight, 0.5)
    # The average starts from the weights of before the first update, which weigh 2 ** -6.
    assert torch.allclose(first, average, atol=0.02 * (average.abs().max().item() + 0.1))
    folder = tmp_path / 'run'
    best = dict(open_folder(folder / 'best_mIoU_iter_6').tensors('model'))
    last = open_folder(folder / 'iter_6')
    average = dict(last.tensors('ema'))
    assert torch.equal(best['decode_head.conv_seg.weight'], average['decode_head.conv_seg.weight'])
    trained = dict(last.tensors('model'))['decode_head.conv_seg.weight']
    assert torch.equal(trained, hook.kept[-1])
    model = MODELS.build(load_recipe(str(folder / 'upernet_internvit.py')).model)
    load_weights(model, folder / 'iter_6')
    assert torch.equal(model.decode_head.conv_seg.weight, average['decode_head.conv_seg.weight'])


@pytest.fixture(scope='module')
def encoder(tmp_path_factory) -> Path:
    """A tiny trained encoder, and another one."""
    root = tmp_path_factory.mktemp('encoder')
    for name, seed in (('one', 0), ('two', 1)):
        runner = run(config(root, iters=4, **{'randomness.seed': seed}))
        state = {
            k.removeprefix('backbone.'): v
            for k, v in runner.strategy.model.state_dict().items()
            if k.startswith('backbone.')
        }
        torch.save({'module': state}, root / f'{name}.pth')
        shutil.rmtree(root / 'run')
    return root


def test_a_frozen_encoder_is_not_in_the_checkpoint(tmp_path, encoder):
    source = {'type': 'Pretrained', 'checkpoint': str(encoder / 'one.pth')}
    frozen = {'model.backbone.frozen': True, 'model.backbone.init_cfg': source}
    runner = run(config(tmp_path, **frozen))
    folder = open_folder(tmp_path / 'run/iter_6')
    assert not any(k.startswith('backbone.') for k, _ in folder.tensors('model'))
    assert not any(k.startswith('backbone.') for k, _ in folder.tensors('optimizer'))
    assert folder.manifest['encoder']['source'] == str(encoder / 'one.pth')
    summary = json.loads((tmp_path / 'run/summary.json').read_text())
    trained = summary['parameters']['trained']
    assert trained == sum(p.numel() for p in runner.strategy.model.parameters() if p.requires_grad)
    assert trained < summary['parameters']['total']

    cfg = load_recipe(str(tmp_path / 'run/upernet_internvit.py'))
    model = MODELS.build(cfg.model)
    load_weights(model, folder.path)
    assert model.backbone.load_report is not None
    # The same values in float32 are the same encoder; those of another file are not.
    cfg.model.backbone.dtype = 'float32'
    load_weights(MODELS.build(cfg.model), folder.path)
    cfg.model.backbone.init_cfg.checkpoint = str(encoder / 'two.pth')
    with pytest.raises(ValueError, match=r'trained on the frozen encoder of .*one\.pth.*two\.pth'):
        load_weights(MODELS.build(cfg.model), folder.path)
