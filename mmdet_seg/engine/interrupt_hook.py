"""Ctrl-C and SIGTERM end a run at the next update or while it validates, with a checkpoint."""

import signal
import time
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import distributed as dist

from mmdet_seg.engine.checkpoint_hook import CheckpointHook
from mmdet_seg.registry import HOOKS

# Seconds in which a second signal is the first one: torchrun passes on what Slurm or a terminal
# sends to all processes anyway.
_ECHO = 5.0
# Images of a validation between two moments at which processes ask each other.
_EVERY = 8


class ValidationLeft(Exception):
    """A validation was left for a signal; it is made up for when the run is resumed."""


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves and stops on the first signal; a second one, later on, interrupts at once.

    The signal may reach one process of several, or all of them in different iterations: they agree
    through the runner's guard. The checkpoint is what ``--resume`` continues from.
    ``runner.interrupted`` tells the caller which signal it was.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}
        self.guard: Any = None
        self.requested = 0.0
        self.batches = 0  # of a validation, in the process that has fewest

    def before_train(self, runner: Any) -> None:
        runner.interrupted = 0
        self.guard = runner.guard
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: whoever runs us handles signals
                return

    def _request(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.guard.stop_requested:
            self.guard.stop_requested, self.requested = number, now
        elif now - self.requested > _ECHO:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        last = runner.iter + 1 >= runner.max_iters
        if not self.guard.stop_agreed or last or not runner.at_update:
            return
        self._leave(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Any) -> None:
        self.batches = _over_all(len(runner.val_dataloader), dist.ReduceOp.MIN)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        # What a half-done accumulation has gathered would be lost: it is updated first.
        between = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
        if not self.previous or batch_idx % _EVERY or runner.iter % between:
            return
        if batch_idx < self.batches:
            stop = _over_all(self.guard.stop_requested, dist.ReduceOp.MAX)
            if stop:
                self.guard.stop_agreed = stop
                raise ValidationLeft

    def leave_validation(self, runner: Any) -> None:
        """Save what the validation was to be of, where that has not been done, and stop."""
        self._leave(runner, runner.iter)

    def _leave(self, runner: Any, done: int) -> None:
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.save_at(runner, done)
        runner.interrupted = self.guard.stop_agreed
        runner.train_loop.stop_training = True

    def after_train(self, runner: Any) -> None:
        self._restore()


def _over_all(number: int, how: Any) -> int:
    """The smallest or largest of the processes' numbers."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return number
    box = torch.tensor(number)
    dist.all_reduce(box, op=how)
    return int(box)
