"""Progress with the time that is left: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmdet_seg.engine.process_memory import peak_bytes
from mmdet_seg.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows training and evaluation on standard error, from the main process only.

    Args:
        lines: How many lines a training run prints where standard error is not a terminal.
    """

    priority = 'LOWEST'

    def __init__(self, lines: int = 20) -> None:
        self.lines = lines
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.started, self.first = 0.0, 0

    def before_train(self, runner: Any) -> None:
        self.started, self.first = time.monotonic(), runner.iter
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        done, total = runner.iter + 1, runner.max_iters
        if self.bar:
            self.bar.update(self.task, completed=done, info=_state(runner, data_batch))
        elif is_main_process() and (
            done == total or done % max(total // self.lines, 1) == 0 or done == self.first + 1
        ):
            spent = time.monotonic() - self.started
            left = spent / (done - self.first) * (total - done)
            state = _state(runner, data_batch)
            print(f'train {done}/{total}  {state}  {clock(left)} left', file=sys.stderr)

    def after_train(self, runner: Any) -> None:
        self._close()

    def before_test_epoch(self, runner: Any) -> None:
        self._open('test', len(runner.test_dataloader), 0)

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        if self.bar:
            self.bar.update(self.task, completed=batch_idx + 1, info='')

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        self._close()

    def before_val_epoch(self, runner: Any) -> None:
        if self.bar:
            self.bar.update(self.task, info='validating')

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if is_main_process() and metrics:
            shown = '  '.join(f'{k} {v:.2f}' for k, v in metrics.items())
            self.console.print(f'validation at {runner.iter}/{runner.max_iters}:  {shown}')

    def _open(self, what: str, total: int, done: int) -> None:
        if is_main_process() and self.console.is_terminal:
            self.bar = Progress(
                TextColumn(what),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn('left  {task.fields[info]}'),
                console=self.console,
            )
            self.task = self.bar.add_task(what, total=total, completed=done, info='')
            self.bar.start()

    def _close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


def _state(runner: Any, batch: Any) -> str:
    """Loss, norm of the gradient, rate, images per second of all processes, waiting, memory."""
    text = [f'loss {runner.guard.loss:.3f}']
    scalars = runner.message_hub.log_scalars
    if 'train/grad_norm' in scalars:
        text.append(f'grad {scalars["train/grad_norm"].current():.2f}')
    if 'train/lr' in scalars:
        text.append(f'lr {scalars["train/lr"].current():.1e}')
    if {'train/time', 'train/data_time'} <= scalars.keys() and runner.iter:
        step, wait = (scalars[f'train/{k}'].mean(10) for k in ('time', 'data_time'))
        images = len(batch['data_samples']) * runner.world_size
        text.append(f'{images / step:.1f} images/s, {100 * wait / step:.0f} % waiting')
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else peak_bytes()
    text.append(f'{peak / 2**30:.1f} GiB')
    return '  '.join(text)


def clock(seconds: float) -> str:
    """Seconds as ``M:SS`` or ``H:MM:SS``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
