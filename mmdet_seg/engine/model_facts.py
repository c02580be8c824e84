"""What of a model and its optimizer the memory of a training depends on, from its config."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from torch import nn

from mmdet_seg.engine.live_memory import Alive

# Elements up to which our ZeRO-3 leaves a weight whole (strategies/zero.py).
PERSISTENT = 100_000


@dataclass(frozen=True)
class ModelFacts:
    """What of a model and its optimizer a strategy's memory depends on.

    Attributes:
        trained: Bytes of the weights that train.
        elements: Their number.
        frozen: Bytes of frozen weights and buffers, which every process holds in full.
        small: Bytes of the weights that ZeRO-3 leaves whole.
        blocks: Bytes of the weights that train in the encoder's blocks.
        block: Bytes of the largest block's.
        largest: Bytes of the largest weight.
        group: Bytes of the optimizer's largest group.
        states: Optimizer states, in bytes per byte of weights.
        update: What an update sets aside, in bytes per byte of what it updates at a time.
        per_group: Whether it updates a group at a time; else a weight.
        accumulate: Steps per update.
        averaged: Whether a moving average is kept.
    """

    trained: int
    elements: int
    frozen: int
    small: int
    blocks: int
    block: int
    largest: int
    group: int
    states: float
    update: float
    per_group: bool
    accumulate: int = 1
    averaged: bool = False

    @property
    def width(self) -> float:
        """Bytes of one element."""
        return self.trained / max(self.elements, 1)

    def aside(self, group: float) -> float:
        """Set aside by an update of groups of this many bytes at most."""
        return self.update * (group if self.per_group else min(self.largest, group))


def model_facts(cfg: Config, model: nn.Module, cuda: bool = True) -> ModelFacts:
    """Read them from a model on the meta device whose frozen weights are buffers.

    Raises:
        ValueError: Nothing trains.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f'{cfg.filename}: nothing trains; there is no training to plan.')
    blocks = [_bytes(b.parameters()) for b in getattr(model.backbone, 'blocks', ())]
    states, update, per_group = _optimizer_costs(cfg, cuda)
    return ModelFacts(
        trained=_bytes(parameters),
        elements=sum(p.numel() for p in parameters),
        frozen=_bytes(model.buffers()),
        small=_bytes(p for p in parameters if p.numel() <= PERSISTENT),
        blocks=sum(blocks),
        block=max(blocks, default=0),
        largest=max(_bytes([p]) for p in parameters),
        group=max(_bytes(group) for group in _groups(cfg, model)),
        states=states,
        update=update,
        per_group=per_group,
        accumulate=cfg.optim_wrapper.get('accumulative_counts', 1),
        averaged=bool(cfg.get('ema')),
    )


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _groups(cfg: Config, model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters as the config's constructor groups them."""
    wrapper = dict(cfg.optim_wrapper)
    given = wrapper['optimizer']
    rates = {k: given[k] for k in ('lr', 'weight_decay') if k in given}
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=wrapper.get('constructor', 'DefaultOptimWrapperConstructor'),
            paramwise_cfg=wrapper.get('paramwise_cfg'),
            # Some optimizers refuse the meta device; the groups do not depend on them.
            optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=dict(type='SGD', **rates)),
        )
    )
    return [group['params'] for group in constructor(model).optimizer.param_groups]


def _optimizer_costs(cfg: Config, cuda: bool) -> tuple[float, float, bool]:
    """States and what an update sets aside per byte of weights, from an update of small tensors.

    Returns:
        Bytes of states, bytes set aside, and whether those count for a group at a time.
    """
    settings = dict(cfg.optim_wrapper.optimizer)
    takes = inspect.signature(_class_of(settings['type']).__init__).parameters
    at_once = bool(settings.get('fused') or settings.get('foreach'))
    if cuda and 'foreach' in takes and settings.get('foreach') is None and not at_once:
        settings['foreach'] = at_once = True  # the default on CUDA
    weights = [nn.Parameter(torch.zeros(64, 64)) for _ in range(4)]
    optimizer = OPTIMIZERS.build({**settings, 'params': weights})
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        alive = Alive()
        with alive:
            optimizer.step()
    tensors = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    states = _bytes(v for v in tensors if v.ndim) / _bytes(weights)
    return (
        states,
        max(map(sum, alive.history)) / _bytes(weights if at_once else weights[:1]),
        at_once,
    )


def _class_of(kind: Any) -> type:
    return OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
