"""What each strategy keeps where, besides the activations.

Read from DeepSpeed 0.19.8 (``stage_1_and_2.py``, ``stage3.py``), PyTorch 2.14's reducer and
``fully_shard``, and :mod:`mmdet_seg.engine.strategies`, and measured in every strategy
(``tests/test_engine/test_memory_plan.py``). Everything is in bytes of one process.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmdet_seg.engine.model_facts import ModelFacts

# DeepSpeed's `max_live_parameters` and `sub_group_size`, in elements.
_LIVE = _SUB_GROUP = 1_000_000_000
# What our strategy sets (strategies/zero.py, which imports DeepSpeed and so is not imported).
BUCKET = 200_000_000
# gloo, on the CPU, makes a reduce-scatter of an all-reduce, which sends twice as much.
_GLOO = 2


def _nothing(arrived: Any) -> Any:
    return 0 * arrived


def _as_they_arrive(arrived: Any) -> Any:
    return arrived


@dataclass(frozen=True)
class Share:
    """What one process holds under a strategy, in bytes.

    Attributes:
        weights: That train.
        states: Of the optimizer.
        copies: Masters and other flat copies of weights or gradients that stay.
        gradients: Bytes that have arrived, in whole -> bytes that are kept of them meanwhile.
        standing: Gradients' memory that is there all the time.
        buckets: Communication buffers that come with the first gradient.
        buckets_standing: Communication buffers that stay.
        reduced: What a reduction makes: the sum in one piece, the own part of it.
        reduce_after: Bytes of gradients before the first reduction.
        gathered: Whole weights beside the process's own part.
        left: Gradients that are left when the update begins.
        update: Set aside by the update.
        start: Weights as they are placed: what is kept of them, and what sharding takes.
        average: The moving average of the weights.
        host: Name -> bytes in the host's memory.
        wire: Bytes that a process sends per update.
        bus: Bytes between host and accelerator per update.
    """

    weights: float
    states: float
    copies: float = 0
    gradients: Callable[[Any], Any] = _nothing
    standing: float = 0
    buckets: float = 0
    buckets_standing: float = 0
    reduced: float = 0
    reduce_after: float = 0
    gathered: float = 0
    left: float = 0
    update: float = 0
    start: float = 0
    average: float = 0
    host: dict[str, float] = field(default_factory=dict)
    wire: float = 0
    bus: float = 0


def share(name: str, facts: ModelFacts, num: int, cuda: bool = True) -> Share:
    """What one of ``num`` processes holds under the strategy of this name.

    Args:
        name: One of :data:`mmdet_seg.engine.strategies.NAMES`.
        facts: Of model and optimizer.
        num: Processes.
        cuda: Whether communication overlaps, which takes a second bucket.
    """
    kind, _, offload = name.partition('_')
    make: dict[str, Callable[..., Share]] = {
        'single': _single,
        'ddp': _ddp,
        'zero1': _zero1,
        'zero2': _zero2,
        'zero3': _zero3_offload if offload else _zero3,
        'fsdp': _fsdp,
    }
    held = make[kind](facts, num, cuda)
    if not facts.averaged:
        return held
    average = 4 * facts.elements / (num if kind in ('zero3', 'fsdp') else 1)  # float32
    if offload:
        return replace(held, host={**held.host, 'moving average': average})
    return replace(held, average=average)


def _single(f: ModelFacts, num: int, cuda: bool) -> Share:
    W = f.trained
    return Share(
        weights=W,
        states=f.states * W,
        gradients=_as_they_arrive if f.accumulate == 1 else _nothing,
        standing=0 if f.accumulate == 1 else W,
        left=W if f.accumulate == 1 else 0,
        update=f.aside(f.group),
        start=W,
    )


def _ddp(f: ModelFacts, num: int, cuda: bool) -> Share:
    """Gradients are views of the reducer's buckets, which stay."""
    W = f.trained
    wire = 2 * (num - 1) / num * W
    return Share(W, f.states * W, standing=W, update=f.aside(f.group), start=W, wire=wire)


def _zero1(f: ModelFacts, num: int, cuda: bool) -> Share:
    """Each process updates a float32 master copy of its part.

    With overlapping communication gradients are reduced as they arrive; without it, or while they
    are accumulated, they are whole first.
    """
    W, part = f.trained, f.trained / num
    whole = not cuda or f.accumulate > 1
    sent = (num - 1) / num * W
    return Share(
        weights=W,
        states=f.states * part,
        copies=part,
        gradients=_as_they_arrive if whole and f.accumulate == 1 else _nothing,
        standing=W if f.accumulate > 1 else 0,
        buckets=_bucket(f) * (2 if cuda else 1),
        # Gradients that were whole leave one by one for the bucket, which its sum replaces.
        reduced=part if whole and f.accumulate == 1 else _bucket(f) + part,
        reduce_after=W if whole else _bucket(f),
        left=part,
        update=_flat_update(f, num),
        start=W + f.group,
        wire=3 * sent,  # its all-reduce sends twice what a reduce-scatter would
    )


def _zero2(f: ModelFacts, num: int, cuda: bool) -> Share:
    """As ZeRO-1, and what is not the process's own part of a gradient goes at once."""
    W, part = f.trained, f.trained / num
    sent = (num - 1) / num * W
    return Share(
        weights=W,
        states=f.states * part,
        copies=part,
        standing=part if f.accumulate > 1 else 0,
        buckets=_bucket(f) * (2 if cuda else 1),
        reduced=_bucket(f) + part,
        reduce_after=_bucket(f),
        left=part,
        update=_flat_update(f, num),
        start=W + f.group,
        wire=(2 * f.accumulate + 1) * sent,
    )


def _bucket(f: ModelFacts) -> float:
    """What DeepSpeed copies gradients to until it is full."""
    return min(BUCKET * f.width, f.trained)


def _flat_update(f: ModelFacts, num: int, limit: float = float('inf')) -> float:
    group = min(f.group, limit) / num
    return group + f.update * group  # the group's gradients in one piece


def _zero3(f: ModelFacts, num: int, cuda: bool) -> Share:
    """Weights in parts too, small ones whole; up to 1e9 elements are kept gathered."""
    W, part = f.trained, f.trained / num
    large, reduced = W - f.small, W * (1 if cuda else _GLOO)
    # In the backward pass again, but for the end of the model: what is used again within 1e9
    # elements is kept. Small ones come back whole after the update.
    gathers = 2 * large - min(large, _LIVE / 2 * f.width)
    return Share(
        weights=part + f.small,
        states=f.states * part,
        copies=part,
        standing=part,
        buckets_standing=_bucket(f),
        reduced=_bucket(f),
        reduce_after=_bucket(f),
        gathered=min(_LIVE * f.width, W - f.small),
        update=_flat_update(f, num, _SUB_GROUP * f.width),
        start=part + f.small + f.largest,
        wire=(num - 1) / num * (f.accumulate * (reduced + gathers) + f.small),
    )


def _zero3_offload(f: ModelFacts, num: int, cuda: bool) -> Share:
    """As ZeRO-3, the parts of weights, gradients and states in the host's memory."""
    inner, part = _zero3(f, num, cuda), f.trained / num
    host = {
        'weights': part,
        'master copies': part,
        'gradients': 2 * part,  # as reduced, and as the update reads them
        'optimizer states': inner.states,
        'update': inner.update - min(f.group, _SUB_GROUP * f.width) / num,
    }
    return Share(
        weights=f.small,
        states=0,
        buckets_standing=inner.buckets_standing,
        reduced=inner.reduced,
        reduce_after=inner.reduce_after,
        gathered=inner.gathered,
        start=f.small + f.largest,
        host=host,
        wire=inner.wire,
        bus=(2 * f.accumulate + 2) * part,
    )


def _fsdp(f: ModelFacts, num: int, cuda: bool) -> Share:
    """Blocks are gathered one ahead; all the rest stays gathered for the whole step."""
    W, part = f.trained, f.trained / num
    rest = W - f.blocks
    sent = (num - 1) / num

    def kept(arrived: Any) -> Any:
        # Those of the rest stay whole to the end, a block's are reduced as soon as it is done.
        whole = np.minimum(arrived, rest + 2 * f.block)
        return whole + np.maximum(arrived - rest, 0) / num

    return Share(
        weights=part,
        states=f.states * part,
        gradients=kept,
        left=part,
        # In use and as it arrives; on CUDA the next one too. What arrived last in a forward pass is
        # kept until something else does: without trained blocks that is all the rest.
        gathered=rest + ((3 if cuda else 2) * f.block or rest),
        update=f.aside(f.group / num),
        start=part + max(f.block, rest),
        wire=sent * (f.accumulate * (rest + 2 * f.blocks) + W * (1 if cuda else _GLOO)),
    )
