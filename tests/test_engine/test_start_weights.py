"""What a training starts from: another model's weights, a run's checkpoint, or a clear no."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from safetensors.torch import load_file

from mmdet_seg.engine import checkpoint_folder
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.runner import HISTORY
from mmdet_seg.engine.work_dir import find_resume
from mmdet_seg.registry import MODELS
from tests.run_folders import save_tiny
from tests.test_engine.test_survival import config, run

ITERS = 4


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """As mmengine's ``AmpOptimWrapper``, which does not run without an accelerator."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8.0, growth_interval=3)

    def update_params(self, loss, **kwargs) -> None:
        self.loss_scaler.scale(loss).backward()
        self._inner_count += 1
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()
        self.optimizer.zero_grad()


class Losses(Hook):
    def __init__(self, at: int | None = None) -> None:
        self.values: list[float] = []
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.values.append(runner.guard.loss)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.at:
            signal.raise_signal(signal.SIGTERM)


# Everything that a run remembers besides its weights.
STATEFUL = {
    'optim_wrapper.type': 'ScaledOptimWrapper',
    'ema.decay': 0.5,
    'train_cfg.val_interval': 3,
    'default_hooks.checkpoint.interval': 100,
    'randomness.seed': None,
}


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """A run whose validation a SIGTERM came into, its losses, and the folder."""
    root = tmp_path_factory.mktemp('stopped')
    cfg, hook = config(root, iters=6, **STATEFUL), Losses(at=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_folder, 'MAX_SHARD_BYTES', 100_000)
        runner = run(cfg, hook)
    return root, runner, hook.values


def test_sigterm_while_validating_saves_and_stops(stopped):
    root, runner, losses = stopped
    assert runner.interrupted == signal.SIGTERM
    assert len(losses) == 3
    folder = open_folder(root / 'run/iter_3')
    # Not the moving average, which the validation had put in the weights' place.
    saved, average = (dict(folder.tensors(stem)) for stem in ('model', 'ema'))
    for name, parameter in runner.strategy.trained.items():
        assert torch.equal(saved[name], parameter), name
    name = 'decode_head.conv_seg.weight'
    assert not torch.equal(saved[name], average[name])
    assert len(list(folder.path.glob('optimizer-*.safetensors'))) > 2  # in several files
    assert not json.loads((root / 'run/summary.json').read_text())['finished']
    assert not runner.message_hub.runtime_info[HISTORY]


def test_it_goes_on_as_if_it_had_not_been_stopped(stopped, tmp_path):
    root, runner, early = stopped
    more = STATEFUL | {'randomness.seed': runner.seed}
    calm = Losses()
    never = run(config(tmp_path, iters=6, **more), calm)
    assert early == calm.values[:3]

    shutil.copytree(root / 'run', tmp_path / 'again/run')
    cfg, late = config(tmp_path / 'again', iters=6, **more), Losses()
    cfg.resume, cfg.load_from = True, str(tmp_path / 'again/run/iter_3')
    resumed = run(cfg, late)
    assert late.values == calm.values[3:]
    states = [r.optim_wrapper.loss_scaler.state_dict() for r in (resumed, never)]
    assert states[0] == states[1]
    assert states[0]['scale'] > 8
    histories = [r.message_hub.runtime_info[HISTORY] for r in (resumed, never)]
    assert histories[0] == histories[1]  # the validation of iteration 3 was made up for
    for stem in ('model', 'ema', 'optimizer'):
        files = (Path(r.work_dir, 'iter_6', f'{stem}.safetensors') for r in (resumed, never))
        ours, theirs = map(load_file, files)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs), stem


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_cfg.max_iters': 2}, r'iter_3 has done 3 iterations, more than .*max_iters=2'),
        ({'optim_wrapper.accumulative_counts': 2}, r'3 iterations, which is not a multiple of'),
        ({'param_scheduler': []}, r'iter_3 has 2 schedules \(param_scheduler\), this config 0'),
        ({'model.backbone.frozen': True}, 'trained backbone.*, which this config does not'),
    ],
)
def test_another_config_cannot_go_on(stopped, options, message):
    root, *_ = stopped
    cfg = config(root, iters=6, **STATEFUL)
    cfg.merge_from_dict(options, allow_list_keys=False)
    cfg.work_dir = str(root / 'other')
    cfg.resume, cfg.load_from = True, str(root / 'run/iter_3')
    with pytest.raises(ValueError, match=message) as error:
        run(cfg)
    assert '\n' not in str(error.value)


def test_what_kills_left_is_cleared_and_what_they_took_comes_back(stopped, tmp_path, capsys):
    folder = tmp_path / 'run'
    shutil.copytree(stopped[0] / 'run', folder)
    (folder / 'iter_3').rename(folder / '.iter_3.old')  # killed between two renames
    (folder / '.iter_5.part').mkdir()
    shutil.copytree(folder / '.iter_3.old', folder / '.best_mIoU_iter_3.old')
    (folder / 'best_mIoU_iter_3').mkdir()
    assert find_resume('c', str(folder)) == (folder, folder / 'iter_3')
    assert sorted(p.name for p in folder.glob('.*')) == []


def test_a_damaged_best_checkpoint_stops_nobody(stopped, tmp_path, capsys):
    folder = tmp_path / 'run'
    shutil.copytree(stopped[0] / 'run', folder)
    best = folder / 'best_mIoU_iter_1'
    shutil.copytree(folder / 'iter_3', best)
    manifest = json.loads((best / 'manifest.json').read_text())
    (best / 'manifest.json').write_text(json.dumps({**manifest, 'score': 99.0}))
    (best / 'training.pth').unlink()
    cfg = config(tmp_path, iters=6, **STATEFUL)
    cfg.resume, cfg.load_from = True, str(folder / 'iter_3')
    run(cfg)
    assert f'Skipped: {best} is not a complete checkpoint: training.pth' in capsys.readouterr().err
    assert sorted(p.name for p in folder.glob('best_*'))[1:]  # a new one was found best


def test_a_frozen_encoder_that_is_not_its_sources_any_more_is_in_the_checkpoint(tmp_path):
    """Weights of a whole model went over those that the frozen encoder had read."""
    source = save_tiny(tmp_path / 'tiny.safetensors')
    init = {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=str(source))}
    whole = tmp_path / 'run/iter_4'
    run(config(tmp_path, ITERS, **init))
    frozen = {**init, 'model.backbone.frozen': True}
    cfg = config(tmp_path, ITERS, **frozen)
    cfg.load_from, cfg.work_dir = str(whole), str(tmp_path / 'head')
    runner = run(cfg)
    folder = open_folder(tmp_path / 'head/iter_4')
    assert folder.manifest['encoder'] is None
    source.unlink()  # not needed any more
    model = MODELS.build(load_recipe(str(tmp_path / 'head/upernet_internvit.py')).model)
    load_weights(model, folder.path)
    trained = dict(open_folder(whole).tensors('model'))['backbone.blocks.0.mlp.fc1.weight']
    for found in (model, runner.strategy.model):
        weight = found.backbone.blocks[0].mlp.fc1.weight
        assert torch.equal(weight, trained.to(weight.dtype))


def test_what_a_file_gives_is_said(tmp_path, capsys):
    model = MODELS.build(config(tmp_path).model)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('auxiliary_head')}
    state['decode_head.conv_seg.bias'] = torch.zeros(3)  # of three classes
    torch.save({'state_dict': state}, tmp_path / 'some.pth')
    cfg = config(tmp_path, 3)
    cfg.load_from = str(tmp_path / 'some.pth')
    run(cfg)
    (line,) = (x for x in capsys.readouterr().err.splitlines() if 'some.pth' in x)
    names = [k for k in model.state_dict() if 'num_batches_tracked' not in k]
    fit = sum(k in state for k in names) - 1
    assert f'gives {fit} of {len(names)} tensors; the others, such as ' in line
    torch.save({'state_dict': {'x': torch.ones(1)}}, tmp_path / 'other.pth')
    cfg = config(tmp_path, 3)
    cfg.load_from = str(tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='nothing in it has the name and shape of a weight'):
        run(cfg)
