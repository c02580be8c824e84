"""Ctrl-C and SIGTERM end a run at the next update, with a checkpoint."""

import signal
import time
from typing import Any

from mmengine.hooks import Hook

from mmdet_seg.engine.checkpoint_hook import CheckpointHook
from mmdet_seg.registry import HOOKS

# Seconds in which a second signal is the first one: torchrun passes on what Slurm or a terminal
# sends to all processes anyway.
_ECHO = 5.0


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
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.save_now(runner)
        runner.interrupted = self.guard.stop_agreed
        runner.train_loop.stop_training = True

    def after_train(self, runner: Any) -> None:
        self._restore()
