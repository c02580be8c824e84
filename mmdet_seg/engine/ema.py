"""Exponential moving average of what trains, in the parts that a process holds.

mmengine's ``EMAHook`` copies the whole model, a frozen encoder of 6 B parameters included.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.engine.strategies import Strategy


class TrainedEma:
    """``average = decay * average + (1 - decay) * weight`` after every update, in float32.

    Batch norm's statistics are averages already and are used as they are.

    Args:
        strategy: Prepared.
        decay: Below 1; 0.9998 averages over about 5000 updates.

    Raises:
        ValueError: ``decay`` is not in [0, 1).
    """

    def __init__(self, strategy: Strategy, decay: float = 0.9998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f'ema.decay={decay} is not in [0, 1), as 0.9998.')
        self.strategy, self.decay = strategy, decay
        self.parts = {n: strategy.local(p).float().clone() for n, p in strategy.trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of after an update in."""
        for name, parameter in self.strategy.trained.items():
            part = self.strategy.local(parameter).to(self.parts[name])
            self.parts[name].lerp_(part, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in the weights' place; the weights come back bit for bit."""
        strategy = self.strategy
        kept = {n: strategy.local(p).clone() for n, p in strategy.trained.items()}
        self._put(self.parts)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, parts: dict[str, Tensor]) -> None:
        for name, parameter in self.strategy.trained.items():
            self.strategy.set_local(parameter, parts[name])

    def entries(self) -> Iterator[TensorEntry]:
        """Whole tensors, for a checkpoint. All processes read them together."""
        for name, parameter in self.strategy.trained.items():
            read = partial(self.strategy.whole_of_local, parameter, self.parts[name])
            yield TensorEntry(name, self.strategy.shape(parameter), torch.float32, read)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`entries` gave."""
        for name, parameter in self.strategy.trained.items():
            part = self.strategy.part_of_whole(parameter, tensors[name])
            self.parts[name].copy_(part.reshape(self.parts[name].shape))


class EmaHook(Hook):
    """Follows the updates; before checkpoints are written in the same iteration."""

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if runner.at_update:
            runner.ema.update()
