"""Ctrl-C and SIGTERM end a run at the next iteration, with a checkpoint."""

import signal
from typing import Any

from mmengine.hooks import CheckpointHook, Hook

from mmdet_seg.registry import HOOKS


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves and stops on the first signal; the second one interrupts at once.

    The checkpoint is what ``--resume`` continues from. ``runner.interrupted`` tells the caller.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}
        self.requested = False

    def before_train(self, runner: Any) -> None:
        runner.interrupted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: whoever runs us handles signals
                return

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if not self.requested or runner.iter + 1 >= runner.max_iters:
            return
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook._save_checkpoint(runner)  # its own bookkeeping of what to keep stays right
        runner.interrupted = True
        runner.train_loop.stop_training = True

    def after_train(self, runner: Any) -> None:
        self._restore()
