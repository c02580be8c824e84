"""A run as a checkpoint folder, and back: weights, optimizer, schedules, history.

Nothing random is stored. Data, augmentations and dropout are functions of the seed, the iteration
and the process (:mod:`mmdet_seg.engine.train_loop`), so the iteration is all that has to be known.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop
from mmengine.utils import apply_to
from torch import Tensor, nn

from mmdet_seg.backbones.left_out import fingerprint
from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.engine.checkpoint_folder import CheckpointFolder, write_folder
from mmdet_seg.engine.frozen_parameters import left_out
from mmdet_seg.engine.strategies import Strategy
from mmdet_seg.version import __version__


def save_run(runner: Any, target: Path, states: bool, facts: dict[str, Any]) -> None:
    """Write a checkpoint. All processes call this together.

    Args:
        runner: Ours, while it trains.
        target: The folder.
        states: With everything that resuming needs, or the weights alone.
        facts: For the manifest: ``iteration`` and more.

    Raises:
        mmdet_seg.engine.checkpoint_folder.NotSaved: It could not be written.
    """
    strategy: Strategy = runner.strategy
    tensors = {'model': list(model_entries(strategy))}
    training = None
    if states:
        if runner.ema is not None:
            tensors['ema'] = list(runner.ema.entries())
        keys = strategy.state_keys()
        tensors['optimizer'] = list(_optimizer_entries(strategy, keys))
        training = _training(runner, keys, facts)
    facts = {'mmdet_seg': __version__, 'encoder': runner.encoder_identity, **facts}
    write_folder(target, tensors, training, facts)


def model_entries(strategy: Strategy) -> Iterator[TensorEntry]:
    """What trains and what a checkpoint has to hold beside it, in the model's order."""
    for name, parameter in strategy.trained.items():
        read = partial(strategy.whole, parameter)
        yield TensorEntry(name, strategy.shape(parameter), parameter.dtype, read)
    for name, buffer in kept_buffers(strategy.model):
        yield TensorEntry(name, tuple(buffer.shape), buffer.dtype, lambda buffer=buffer: buffer)


def kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that ``state_dict`` holds."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f'{prefix}.{name}' if prefix else name, buffer


def _optimizer_entries(strategy: Strategy, keys: list[str]) -> Iterator[TensorEntry]:
    for name, parameter in strategy.trained.items():
        for key in keys:
            read = partial(_state, strategy, parameter, key)
            yield TensorEntry(f'{name}|{key}', strategy.shape(parameter), torch.float32, read)


def _state(strategy: Strategy, parameter: nn.Parameter, key: str) -> Tensor:
    return strategy.whole_state(parameter, key).float()


def _training(runner: Any, keys: list[str], facts: dict[str, Any]) -> dict[str, Any]:
    strategy: Strategy = runner.strategy
    scalars = {
        key: {name: strategy.scalar(p, key) for name, p in strategy.trained.items()}
        for key in strategy.scalar_keys()
    }
    wrapper = runner.optim_wrapper
    scaler = getattr(wrapper, 'loss_scaler', None)
    hub = runner.message_hub.state_dict()
    return {
        'meta': facts,
        'message_hub': apply_to(hub, lambda x: hasattr(x, 'cpu'), lambda x: x.cpu()),
        'param_schedulers': [s.state_dict() for s in runner.param_schedulers or ()],
        'optimizer': {
            'keys': keys,
            'scalars': scalars,
            'groups': list(strategy.grouped()),
            'base': wrapper.base_param_settings,
            'loss_scaler': scaler.state_dict() if scaler is not None else None,
        },
    }


def check_position(runner: Any, folder: CheckpointFolder) -> None:
    """See that a run can go on where a checkpoint ends.

    Raises:
        ValueError: It ends behind the last iteration, or between two updates.
    """
    done, last = folder.iteration, runner.max_iters
    if done > last:
        raise ValueError(
            f'{folder.path} has done {done} iterations, more than train_cfg.max_iters={last}: '
            'raise it, or resume from an earlier one.'
        )
    accumulate = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
    if done % accumulate and not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise ValueError(
            f'{folder.path} was saved after {done} iterations, which is not a multiple of '
            f'optim_wrapper.accumulative_counts={accumulate}: resume with that of the run.'
        )


def resume_states(runner: Any, folder: CheckpointFolder) -> dict[str, Any]:
    """Fill optimizer, schedulers and history of a runner whose weights are loaded.

    Returns:
        The checkpoint's ``meta``.

    Raises:
        ValueError: The checkpoint is of another model, or holds weights alone.
    """
    if not folder.has('optimizer'):
        raise ValueError(
            f'{folder.path} holds weights alone; resume from an iter_N folder, or start anew from '
            'it with --cfg-options load_from=...'
        )
    strategy: Strategy = runner.strategy
    training = folder.training()
    saved = training['optimizer']
    states = dict(folder.tensors('optimizer'))
    if missing := [n for n in strategy.trained for k in saved['keys'] if f'{n}|{k}' not in states]:
        raise ValueError(
            f'{folder.path}: no optimizer state of {missing[0]}: something else was trained; '
            "resume with the run's own config."
        )
    if surplus := {key.rpartition('|')[0] for key in states} - set(strategy.trained):
        raise ValueError(
            f'{folder.path} trained {min(surplus)}, which this config does not: resume with the '
            "run's own config, or start from its weights with --cfg-options load_from=..."
        )
    strategy.load_groups(saved['groups'])
    strategy.load_states(lambda n, k: states[f'{n}|{k}'], saved['keys'], saved['scalars'])
    wrapper = runner.optim_wrapper
    if saved['base'] is not None and wrapper.base_param_settings is not None:
        wrapper.base_param_settings.update(saved['base'])
    if saved['loss_scaler'] is not None and hasattr(wrapper, 'loss_scaler'):
        wrapper.loss_scaler.load_state_dict(saved['loss_scaler'])
    own, schedules = runner.param_schedulers or (), training['param_schedulers']
    if len(own) != len(schedules):
        raise ValueError(
            f'{folder.path} has {len(schedules)} schedules (param_scheduler), this config '
            f"{len(own)}: resume with the run's own config."
        )
    for scheduler, state in zip(own, schedules, strict=True):
        scheduler.load_state_dict(state)
    runner.message_hub.load_state_dict(training['message_hub'])
    return training['meta']


def encoder_identity(model: nn.Module) -> dict[str, Any] | None:
    """Which encoder a checkpoint without it belongs to; None where nothing is left out."""
    tensors = dict(left_out(model))
    if not tensors:
        return None
    encoder = next(m for m in model.modules() if getattr(m, 'load_report', None) is not None)
    source = encoder.init_cfg['checkpoint'] if isinstance(encoder.init_cfg, dict) else None
    return {
        'source': source,
        'layout': encoder.load_report.layout,
        'tensors': len(tensors),
        'sha256': fingerprint(sorted(tensors.items())),
    }


def plain_meta(meta: Any) -> dict[str, Any] | None:
    """Classes and palette as JSON has them."""
    if not meta:
        return None
    facts = {}
    if meta.get('classes') is not None:
        facts['classes'] = [str(name) for name in meta['classes']]
    if meta.get('palette') is not None:
        facts['palette'] = [[int(x) for x in colour] for colour in meta['palette']]
    return facts
