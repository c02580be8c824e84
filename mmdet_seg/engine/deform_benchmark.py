"""Deformable attention, forward and backward, beside mmcv's PyTorch fallback, in one run on CPU.

Shape letters: B batch, N positions of all levels, M heads, D channels of a head, L levels,
Q queries, P sampling points of a head on a level.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mmdet_seg.ops import ms_deform_attn

# The profiler announces itself and the lack of a GPU.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')


@dataclass(frozen=True)
class Setting:
    """One use of deformable attention.

    Attributes:
        name: Whose, and at which input.
        grids: Sizes of the maps whose positions are the queries.
        levels: Sizes of the maps that are sampled.
        heads: M.
        dim: D.
        points: P.
    """

    name: str
    grids: tuple[tuple[int, int], ...]
    levels: tuple[tuple[int, int], ...]
    heads: int
    dim: int = 32
    points: int = 4


_STRIDES_8_TO_32 = ((64, 64), (32, 32), (16, 16))
_TOKENS = ((32, 32),)
_STRIDES_32_TO_8 = ((28, 28), (56, 56), (112, 112))
SETTINGS = (
    Setting('ViT-Adapter injector, 6B at 512', _TOKENS, _STRIDES_8_TO_32, heads=25),
    Setting('ViT-Adapter extractor, 6B at 512', _STRIDES_8_TO_32, _TOKENS, heads=25),
    Setting('Mask2Former pixel decoder at 896', _STRIDES_32_TO_8, _STRIDES_32_TO_8, heads=8),
)


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        name: Of the setting.
        ours: Seconds of forward and backward, median.
        stock: The same of mmcv's ``multi_scale_deformable_attn_pytorch``.
        ratio: Stock over ours, median over the rounds.
        our_bytes: Most that tensors took on top of the inputs.
        stock_bytes: The same of mmcv's.
        difference: ``max|a - b| / max|b|`` of the results.
    """

    name: str
    ours: float
    stock: float
    ratio: float
    our_bytes: int
    stock_bytes: int
    difference: float


def run(
    settings: Sequence[Setting] = SETTINGS,
    rounds: int = 5,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure one image in float32 per setting; the two take turns."""
    return [_measure(setting, rounds, progress) for setting in settings]


def stock(value: Tensor, shapes: Sequence, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's own fallback, which :mod:`mmdet_seg.compat` replaces in mmcv's module."""
    from mmcv.ops import multi_scale_deform_attn as module

    fallback = module.multi_scale_deformable_attn_pytorch
    return getattr(fallback, '__wrapped__', fallback)(value, shapes, locations, weights)


def inputs(setting: Setting) -> list[Tensor]:
    """Random value, locations (two pixels around the query, some outside) and weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    centres = []
    for height, width in setting.grids:
        y, x = (torch.arange(0.5, side) / side for side in (height, width))
        centres.append(torch.cartesian_prod(y, x).flip(1))
    centres = torch.cat(centres)
    Q, M, L, P = len(centres), setting.heads, len(setting.levels), setting.points
    sides = torch.tensor(setting.levels).flip(1)
    locations = centres.view(Q, 1, 1, 1, 2) + 2 * normal(1, Q, M, L, P, 2) / sides[:, None]
    weights = normal(1, Q, M, L * P).softmax(-1).view(1, Q, M, L, P)
    positions = sum(height * width for height, width in setting.levels)
    value = normal(1, positions, M, setting.dim)
    return [value, locations, weights]


def _measure(setting: Setting, rounds: int, progress: Callable[[str], None]) -> Row:
    progress(f'{setting.name}: {rounds} rounds')
    value, locations, weights = (tensor.requires_grad_() for tensor in inputs(setting))
    shapes = list(setting.levels)
    ways = {'ours': ms_deform_attn, 'stock': stock}
    results = {name: way(value, shapes, locations, weights) for name, way in ways.items()}
    a, b = (result.detach() for result in results.values())
    grad = torch.randn_like(a)

    def step(way: Callable) -> None:
        result = way(value, shapes, locations, weights)
        torch.autograd.grad(result, (value, locations, weights), grad)

    del results
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            step(way)
            seconds[name].append(time.perf_counter() - start)
    ratios = (s / o for s, o in zip(seconds['stock'], seconds['ours'], strict=True))
    return Row(
        setting.name,
        median(seconds['ours']),
        median(seconds['stock']),
        median(ratios),
        peak_bytes(lambda: step(ms_deform_attn)),
        peak_bytes(lambda: step(stock)),
        ((a - b).abs().max() / b.abs().max()).item(),
    )


def peak_bytes(action: Callable[[], None]) -> int:
    """Most memory that tensors made by ``action`` took at once, inside operators too.

    Counted from what PyTorch's allocator hands out and gets back, as its profiler records it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    # Only the raw records have the order of events.
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == '[memory]')
    assert changes, 'the profiler recorded no memory'
    taken = most = 0
    for _, change in changes:
        taken += change
        most = max(most, taken)
    return most


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| deformable attention | ours, ms | mmcv, ms | ours is | ours, MiB | mmcv, MiB | differ |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        lines.append(
            f'| {row.name} | {row.ours * 1e3:.0f} | {row.stock * 1e3:.0f} | {row.ratio:.2f} x | '
            f'{row.our_bytes / 2**20:.0f} | {row.stock_bytes / 2**20:.0f} | {row.difference:.0e} |'
        )
    return '\n'.join(lines)
