"""Cross entropy of upsampled logits, without the upsampled logits.

``F.cross_entropy(F.interpolate(logits, size, mode='bilinear'), labels)``, value and gradient, to
rounding. Between four neighbouring cells of the map an upsampled logit is a sum of four with
weights that depend on the pixel alone, so that

- the logits at the labels need no upsampling: their sum is the product of the map with what the
  labels weigh in it (:class:`Labels`), which all probes of a batch share;
- the rest is the logarithm of a sum of powers per pixel. It is taken for a few cells at a time, in
  the processor's cache, with its gradient in the same pass. Down a column between two cells the
  logits grow evenly, so that a power is the one above it times a factor, and few have to be taken.

Shapes::

    B          images                      C     classes
    (h, w)     cells of the map            (H, W) pixels of the labels
    Q          (h + 1) (w + 1) gaps between four cells, those beyond the edge included
    K          the most pixels that a gap has; gaps with fewer are filled up with weight 0
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = 255  # label of pixels that do not count
# Powers that are handled at once: what a cache holds, and what keeps an accelerator busy.
_CHUNK_BYTES = {'cpu': 4 << 20}
_OTHER_BYTES = 256 << 20
# Logits of base 2 that lie further below the largest of their cell have no powers in float32 that
# could be multiplied up again.
_RANGE = 100.0


class Gaps(NamedTuple):
    """How pixels lie between cells.

    Attributes:
        weights: (Q, 4, K) of the cells around a gap: upper left, upper right, lower left, lower
            right.
        columns: (Q, 2 Kx, 4) of the same cells: weights of the first row of pixels, then what they
            grow by from row to row; K is Ky rows of Kx.
        pixels: (Q, K) into the H * W pixels.
        real: (Q, K) bool, False where a gap is filled up.
    """

    weights: Tensor
    columns: Tensor
    pixels: Tensor
    real: Tensor


@lru_cache(maxsize=8)
def find_gaps(
    grid: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Gaps:
    """Pixels between cells, as ``F.interpolate(align_corners=False)`` places them.

    Args:
        grid: (h, w).
        size: (H, W), any.
        dtype: Of the weights.
        device: Of everything.
    """
    (wy, py), (wx, px) = (_along(n, N) for n, N in zip(grid, size, strict=True))
    weights = torch.einsum('iak,jbl->ijabkl', wy, wx).flatten(4).flatten(2, 3).flatten(0, 1)
    step = torch.zeros_like(wy[:, :, 0])
    step[:] = torch.tensor([-1.0, 1.0], dtype=torch.float64) * grid[0] / size[0]
    columns = torch.stack([wy[:, :, 0], step], dim=1)  # (h + 1, 2, 2)
    columns = torch.einsum('isa,jbl->ijslab', columns, wx).flatten(4).flatten(2, 3).flatten(0, 1)
    real = ((py >= 0)[:, None, :, None] & (px >= 0)[None, :, None, :]).flatten(2).flatten(0, 1)
    pixels = (py[:, None, :, None] * size[1] + px[None, :, None, :]).flatten(2).flatten(0, 1)
    pixels = torch.where(real, pixels, 0)
    found = (weights.to(device, dtype), columns.to(device, dtype))
    return Gaps(*found, pixels.to(device), real.to(device))


def _along(cells: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Of one axis: weights (n + 1, 2, K) of the cells before and after, pixels (n + 1, K)."""
    position = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    before = position.floor()
    share, gap = position - before, before.long() + 1
    number = torch.bincount(gap, minlength=cells + 1)
    first = number.cumsum(0) - number
    slot = torch.arange(pixels) - first[gap]
    weights = torch.zeros(cells + 1, 2, int(number.max()), dtype=torch.float64)
    index = torch.full((cells + 1, int(number.max())), -1)
    weights[gap, 0, slot], weights[gap, 1, slot] = 1 - share, share
    index[gap, slot] = torch.arange(pixels)
    return weights, index


class Labels:
    """Labels of a batch and what they weigh in a map; every probe on a map of this grid shares it.

    Args:
        labels: (B, H, W) int64, 255 where a pixel does not count.
        grid: (h, w) of the map.
        num_classes: C.
        all_pixels: Divide the loss by all pixels, as mmseg's ``CrossEntropyLoss`` does if nothing
            else is said; False divides by those that count, as ``F.cross_entropy``.
        dtype: Of the logits.

    Raises:
        ValueError: A label that is no class.
    """

    def __init__(
        self,
        labels: Tensor,
        grid: tuple[int, int],
        num_classes: int,
        *,
        all_pixels: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        B, H, W = labels.shape
        self.grid, self.num_classes = grid, num_classes
        self.gaps = find_gaps(grid, (H, W), dtype, labels.device)
        flat = labels.flatten(1)
        counts = flat != IGNORED
        # Gaps' order; (B, Q, K).
        found = torch.where(counts, flat, 0)[:, self.gaps.pixels]
        _check(found, num_classes)
        self.counted = (counts[:, self.gaps.pixels] & self.gaps.real).to(dtype)
        at_corners = torch.zeros(B, len(self.gaps.weights), 4, num_classes, device=labels.device)
        weighed = self.gaps.weights * self.counted[:, :, None]
        at_corners = at_corners.to(dtype)
        at_corners.scatter_add_(3, found[:, :, None].expand_as(weighed), weighed)
        self.weight = _to_cells(at_corners, grid)
        self.number = labels.numel() if all_pixels else max(int(counts.sum()), 1)


def _check(labels: Tensor, num_classes: int) -> None:
    low, high = (int(x) for x in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'label {low if low < 0 else high} is not one of the {num_classes} classes '
            f'(0 .. {num_classes - 1}, or {IGNORED} for pixels that do not count).'
        )


def upsampled_cross_entropy(logits: Tensor, labels: Labels) -> Tensor:
    """Mean cross entropy of logits that are upsampled to the size of the labels.

    Args:
        logits: (B, h, w, C), channels last.
        labels: Of this grid.
    """
    return _Loss.apply(logits, labels)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Labels) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        corners = _corners((logits - top) * math.log2(math.e))
        total, gradient = _partition(corners, labels, ctx.needs_input_grad[0])
        # The powers were taken relative to the largest logit of every cell.
        total += (top.double() * labels.weight.sum(-1, keepdim=True)).sum()
        total -= (logits.double() * labels.weight).sum()
        if gradient is not None:
            gradient = (_to_cells(gradient, labels.grid) - labels.weight).div_(labels.number)
            ctx.save_for_backward(gradient)
        return (total / labels.number).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * upstream, None


def _partition(
    corners: Tensor, labels: Labels, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of log sum 2**x over the pixels that count, in double.

    Args:
        corners: (B, Q, 4, C) logits around every gap, of base 2, at most 0.
        labels: Of the batch.
        with_gradient: With its gradient by ``corners`` in units of natural logarithms.

    Returns:
        The sum, and the gradient (B, Q, 4, C) or None.
    """
    B, Q, _, C = corners.shape
    gaps, K = labels.gaps, labels.gaps.weights.shape[2]
    gradient = torch.empty_like(corners) if with_gradient else None
    limit = _CHUNK_BYTES.get(corners.device.type, _OTHER_BYTES)
    step = max(1, limit // (K * C * corners.element_size()))
    room = corners.new_empty(min(step, Q), K, C)
    total = corners.new_zeros((), dtype=torch.float64)
    narrow = bool(corners.amin() > -_RANGE)
    for b in range(B):
        for start in range(0, Q, step):
            part = slice(start, min(start + step, Q))
            here, counted = gaps.weights[part], labels.counted[b, part]
            powers = room[: len(here)]
            if narrow:
                _columns(gaps.columns[part], corners[b, part], powers)
            else:
                torch.bmm(here.transpose(1, 2), corners[b, part], out=powers)
                top = powers.amax(-1, keepdim=True)
                powers.sub_(top).exp2_()
                total += math.log(2) * (top[..., 0].double() * counted).sum()
            sums = powers.sum(-1)
            total += (sums.log() * counted).sum(dtype=torch.float64)
            if gradient is not None:
                shares = here * (counted / sums)[:, None]
                torch.bmm(shares, powers, out=gradient[b, part])
    return total, gradient


def _columns(columns: Tensor, corners: Tensor, powers: Tensor) -> None:
    """Fill ``powers`` (n, K, C): the first row, and each further half from the half above it."""
    first, factor = torch.bmm(columns, corners).exp2_().chunk(2, dim=1)
    rows = powers.unflatten(1, (-1, first.shape[1]))  # (n, Ky, Kx, C)
    rows[:, 0] = first
    done, number = 1, rows.shape[1]
    while done < number:
        more = min(done, number - done)
        torch.mul(rows[:, :more], factor[:, None], out=rows[:, done : done + more])
        done += more
        factor = factor.square() if done < number else factor


def _corners(cells: Tensor) -> Tensor:
    """The four cells around every gap: (B, h, w, C) -> (B, Q, 4, C); edges are repeated."""
    x = torch.cat([cells[:, :1], cells, cells[:, -1:]], dim=1)
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
    four = [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]
    return torch.stack(four, dim=3).flatten(1, 2)


def _to_cells(corners: Tensor, grid: tuple[int, int]) -> Tensor:
    """Adjoint of :func:`_corners`: (B, Q, 4, C) -> (B, h, w, C)."""
    h, w = grid
    four = corners.unflatten(1, (h + 1, w + 1))
    x = corners.new_zeros(len(corners), h + 2, w + 2, corners.shape[-1])
    x[:, :-1, :-1] += four[:, :, :, 0]
    x[:, :-1, 1:] += four[:, :, :, 1]
    x[:, 1:, :-1] += four[:, :, :, 2]
    x[:, 1:, 1:] += four[:, :, :, 3]
    x[:, 1] += x[:, 0]
    x[:, -2] += x[:, -1]
    x[:, :, 1] += x[:, :, 0]
    x[:, :, -2] += x[:, :, -1]
    return x[:, 1:-1, 1:-1]
