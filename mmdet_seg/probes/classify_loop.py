"""The training loop of a bank of heads: progress, tests on the way, going on after a kill."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmdet_seg import command_line
from mmdet_seg.compat.torch_load import load_file
from mmdet_seg.probes.classify_inputs import FreshViews, StoredViews
from mmdet_seg.probes.classify_train import HeadBank
from mmdet_seg.probes.progress import Progress

STATE = 'training.pt'
_POINTS = 100  # of a loss curve
_TESTS = 10  # on the way
_SAVE_SHARE = 0.05  # of the time may go into saving


def train(
    bank: HeadBank,
    source: FreshViews | StoredViews,
    folder: Path,
    key: str,
    test: Callable[[], dict[str, float]] | None = None,
    go_on: Path | None = None,
) -> dict[str, dict[str, list]]:
    """Train until the end, from where a run with the same key in the same folder got.

    Args:
        bank: The heads.
        source: Of the batches.
        folder: Of the run.
        key: Of everything that the outcome depends on.
        test: Score by name of the heads as they are; called about ten times.
        go_on: What ``--out`` has to be to go on; None is ``folder``. Where it is given, the state
            of the end is kept too.

    Returns:
        Name to ``loss`` and ``score``, lists of [step, value].
    """
    curves = {p.name: {'loss': [], 'score': []} for p in bank.probes}
    file = folder / STATE
    curves = _resume(bank, file, key) or curves
    steps = bank.steps
    width, between = max(steps // _POINTS, 1), max(math.ceil(steps / _TESTS), 1)
    sums = {p.name: [] for p in bank.probes}
    progress = Progress('training', steps, 'steps/s')
    progress.skip(bank.done)
    saved, took = time.monotonic(), 0.0
    try:
        for inputs, targets in source.steps(bank.done, steps):
            losses = bank.step(inputs, targets)
            for probe, loss in zip(bank.probes, losses, strict=True):
                sums[probe.name].append(loss)
            done = bank.done
            if done % width == 0 or done == steps:
                for name, values in sums.items():
                    curves[name]['loss'].append([done, sum(values) / len(values)])
                    values.clear()
            if test is not None and (done % between == 0 or done == steps):
                for name, score in test().items():
                    curves[name]['score'].append([done, score])
                bank.train()
            least = [x for x in losses if math.isfinite(x)]
            progress.add(1, f'least loss {min(least):.3f}' if least else 'every head failed')
            if time.monotonic() - saved > max(30.0, took / _SAVE_SHARE) and done < steps:
                saved = time.monotonic()
                _save(bank, curves, file, key)
                took = time.monotonic() - saved
    except KeyboardInterrupt:
        _save(bank, curves, file, key)
        command_line.note(
            f'Stopped after {bank.done} of {steps} steps, kept in {folder}: the same command with '
            f'--out {go_on or folder} goes on.'
        )
        raise
    progress.close()
    if go_on is not None:  # one of several runs of a command: the next one may be interrupted
        _save(bank, curves, file, key)
    return curves


def _save(bank: HeadBank, curves: dict, file: Path, key: str) -> None:
    aside = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        torch.save({'key': key, 'curves': curves, 'bank': bank.state_dict()}, aside)
        aside.replace(file)
    except (OSError, RuntimeError) as error:  # PyTorch's writer raises either
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0]
        raise command_line.Failure(
            f'{file} could not be written ({reason}); the one of before is as it was. Make room, '
            'then run the same command again.'
        ) from error


def _resume(bank: HeadBank, file: Path, key: str) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found = load_file(file)
    except ValueError as error:
        command_line.note(f'{error} Training starts anew.')
        return None
    if found.get('key') != key:
        command_line.note(f'{file} is of another encoder, data or settings: training starts anew.')
        return None
    bank.load_state_dict(found['bank'])
    command_line.note(f'Going on after step {bank.done} of {bank.steps}.')
    return found['curves']
