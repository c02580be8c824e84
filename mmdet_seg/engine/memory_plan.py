"""Which strategy fits, computed from a config on the meta device in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmdet_seg.engine.activation_memory import StepMemory, plain_norms, trace_step
from mmdet_seg.engine.frozen_parameters import hide_frozen
from mmdet_seg.engine.model_facts import ModelFacts, model_facts
from mmdet_seg.engine.strategy_memory import Share, share

GIB = 1 << 30
# Not in any tensor: CUDA's context and libraries, NCCL's buffers, kernels' workspaces.
CONTEXT = int(1.5 * GIB)
# Of the memory: holes between blocks of the caching allocator.
FRAGMENTATION = 0.05
_MAX_BATCH = 1024


@dataclass(frozen=True)
class StrategyPlan:
    """One strategy at one batch. Bytes of one process.

    Attributes:
        name: Of the strategy.
        batch: Images of one process in one step.
        accumulate: Steps per update.
        parts: Name -> bytes on the accelerator at the fullest moment.
        moment: ``'step'`` (forward and backward), ``'update'`` or ``'start'``.
        host: Name -> bytes in the host's memory.
        wire: Bytes that a process sends per update.
        bus: Bytes between host and accelerator per update.
        built: Bytes of the whole model, which every process builds in the host's memory.
        largest_batch: Largest batch that fits, 0 if none does.
    """

    name: str
    batch: int
    accumulate: int
    parts: dict[str, int]
    moment: str
    host: dict[str, int]
    wire: int
    bus: int
    built: int
    largest_batch: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def host_total(self) -> int:
        """In the host's memory at the fullest moment."""
        return max(sum(self.host.values()), self.built)


class Planner:
    """Plans for one config.

    Args:
        cfg: A complete recipe.
        cuda: Plan for CUDA; False for processes on the CPU, where plans can be measured.

    Raises:
        ValueError: The config cannot be built, or nothing of it trains.
    """

    def __init__(self, cfg: Config, cuda: bool = True) -> None:
        self.cfg, self.cuda = cfg, cuda
        for key in ('train_dataloader', 'optim_wrapper'):
            if key not in cfg:
                raise ValueError(f'{cfg.filename} has no `{key}`: there is no training to plan.')
        if 'decode_head' not in cfg.model:
            raise ValueError(
                f'{cfg.filename} is a detector; plans are made for segmentors, whose memory does '
                'not depend on what is in the images. Try it: tools/train.py prints the memory.'
            )
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        model_cfg = Config(dict(model=cfg.model)).model
        with torch.device('meta'):
            model = MODELS.build(model_cfg)
        self.model = plain_norms(model)
        hide_frozen(self.model)
        self.facts = model_facts(cfg, self.model, cuda)
        crop = (cfg.model.get('data_preprocessor') or {}).get('size') or cfg.get('crop_size')
        if not crop:
            raise ValueError(
                f'{cfg.filename} says nowhere how large its crops are; set it with --cfg-options '
                'model.data_preprocessor.size=(504,504).'
            )
        self.crop = tuple(crop)
        self._steps: dict[int, StepMemory] = {}

    @property
    def batch(self) -> int:
        """Images of one process, as the config has it."""
        return self.cfg.train_dataloader.batch_size

    def step(self, batch: int) -> StepMemory:
        """Activations and gradients of a step; two are traced, the others lie on their line."""
        if batch in (2, 3) or not self.cuda:
            if batch not in self._steps:
                precision = _precision(self.cfg)
                self._steps[batch] = trace_step(
                    self.model, batch, self.crop, cuda=self.cuda, autocast=precision
                )
            return self._steps[batch]
        return self.step(2).at(batch, self.step(3))

    def moments(
        self, name: str, num: int, batch: int, accumulate: int | None = None
    ) -> dict[str, dict[str, float]]:
        """What fills the accelerator at the start, in the fullest moment of a step, and after it.

        Args:
            name: Of the strategy.
            num: Processes.
            batch: Images of one process in one step.
            accumulate: Steps per update; None: as the config has it.

        Returns:
            ``'start'``, ``'update'`` and ``'step'`` -> name -> bytes.
        """
        facts, held = self._held(name, num, accumulate)
        step = self.step(batch)
        always = {
            'weights': held.weights,
            'frozen weights': facts.frozen,
            'optimizer states': held.states,
            'master weights': held.copies,
            'moving average': held.average,
        }
        return {
            'start': {'weights': held.start, 'frozen weights': facts.frozen},
            'update': always
            | {
                'gradients': held.standing + held.left,
                'communication': held.buckets_standing,
                'activations': step.others[-1],
                'set aside by the update': held.update,
            },
            'step': always | _of_step(held, step),
        }

    def _held(self, name: str, num: int, accumulate: int | None) -> tuple[ModelFacts, Share]:
        facts = replace(self.facts, accumulate=accumulate or self.facts.accumulate)
        return facts, share(name, facts, num, self.cuda)

    def at(self, name: str, num: int, batch: int, accumulate: int | None = None) -> StrategyPlan:
        """What a strategy takes; arguments as for :meth:`moments`."""
        moments = self.moments(name, num, batch, accumulate)
        facts, held = self._held(name, num, accumulate)
        moment = max(reversed(moments), key=lambda m: sum(moments[m].values()))
        return StrategyPlan(
            name,
            batch,
            facts.accumulate,
            {k: round(v) for k, v in moments[moment].items()},
            moment,
            {k: round(v) for k, v in held.host.items()},
            round(held.wire),
            round(held.bus),
            facts.trained + facts.frozen,
        )

    def smallest_batch(self, num: int) -> int:
        """1, or 2 where one image alone leaves a batch norm nothing to normalise over."""
        if num > 1:
            return 1
        return 2 if _pools_to_one(self.model) else 1

    def largest_batch(self, name: str, num: int, memory: int) -> int:
        """Most images per process that fit ``memory`` bytes, 0 if not even the fewest do."""
        low, high = self.smallest_batch(num) - 1, _MAX_BATCH + 1
        start = low
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.at(name, num, middle).total <= usable(memory)
            low, high = (middle, high) if fits else (low, middle)
        return 0 if low == start else low

    def all(self, names: Sequence[str], num: int, memory: int) -> list[StrategyPlan]:
        """Every strategy at the config's batch, with the largest batch that fits."""
        return [
            replace(
                self.at(name, num, self.batch), largest_batch=self.largest_batch(name, num, memory)
            )
            for name in names
        ]


def usable(memory: int) -> int:
    """Bytes that tensors may take of an accelerator's memory."""
    return int(memory * (1 - FRAGMENTATION)) - CONTEXT


def strategies_for(num: int) -> tuple[str, ...]:
    """Strategies that make sense for this many processes."""
    if num == 1:
        return ('single', 'zero3_offload')
    return ('ddp', 'zero1', 'zero2', 'zero3', 'zero3_offload', 'fsdp')


def _of_step(held: Share, step: StepMemory) -> dict[str, float]:
    begun = step.gradients > 0
    made = held.gradients(step.gradients)
    buffers = held.buckets * begun
    # Rounding: an empty remainder must not put the reduction off for ever.
    buffers = buffers + held.reduced * (begun & (step.gradients >= 0.999 * held.reduce_after))
    i = int(np.argmax(step.others + made + buffers))
    return {
        'gradients': float(held.standing + made[i]),
        'communication': float(held.buckets_standing + buffers[i]),
        'gathered weights': held.gathered,
        **step.named(i),
    }


def _precision(cfg: Config) -> torch.dtype | None:
    """Of the whole forward pass, as the optimizer wrapper sets it."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    name = kind if isinstance(kind, str) else kind.__name__
    if name.rsplit('.', 1)[-1] == 'AutocastOptimWrapper':
        return torch.bfloat16
    if name.rsplit('.', 1)[-1] == 'AmpOptimWrapper':
        given = cfg.optim_wrapper.get('dtype') or 'float16'
        return getattr(torch, given) if isinstance(given, str) else given
    return None


def _pools_to_one(model: nn.Module) -> bool:
    pools = any(
        isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1))
        for m in model.modules()
    )
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    return pools and norms
