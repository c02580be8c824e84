"""Multi-scale deformable attention, forward and backward, out of PyTorch's own kernels.

Shape letters: B batch, N positions of all levels, M heads, D channels of a head, L levels,
Q queries, P sampling points of a head on a level, R heads that are computed together.

A sum of bilinear samples is a weighted sum of rows of a table, which ``embedding_bag`` computes
without storing the rows. The four pixels around a point are one *cell*; maps get a border of zeros,
so that every cell has four pixels and nothing has to be masked. Backward, the points are sorted by
cell and the gradient of the maps is a weighted sum of rows as well: of those of the output's
gradient. What is stored between the two are the arguments; a few heads are computed at a time.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Points, or positions of a level, of the heads that are computed together. On CPU, for each core,
# few enough for its cache and enough for the radix sort, which PyTorch uses from 32768 keys on.
_POINTS_OF_A_CORE = 1 << 15
_POINTS_OF_A_GPU = 1 << 22
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # y, x


def forward(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The attended values.

    Args:
        value: (B, N, M, D).
        shapes: Height and width of each level.
        locations: (B, Q, M, L, P, 2), x and y from 0 to 1.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D) in the dtype of ``value``.
    """
    B, _, M, D = value.shape
    Q = locations.shape[1]
    out = value.new_zeros(B, Q, M, D)
    if weights.numel() == 0:
        return out.flatten(2)
    dtype = computed_in(value, locations, weights)
    for b, heads, R in _parts(locations, shapes):
        total = torch.zeros(R * Q, D, dtype=dtype, device=value.device)
        for level, start, (h, w) in _levels(shapes):
            maps = value[b, start : start + h * w, heads]
            points = locations[b, :, heads, level], weights[b, :, heads, level]
            total += _sampled(maps, *points, h, w, dtype)
        out[b, :, heads] = total.view(R, Q, D).transpose(0, 1)
    return out.flatten(2)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, in their dtypes.

    Args:
        grad: (B, Q, M * D), gradient of the result; the others as in :func:`forward`.
    """
    contiguous = torch.contiguous_format
    grads = tuple(
        torch.zeros_like(t, memory_format=contiguous) for t in (value, locations, weights)
    )
    if weights.numel() == 0:
        return grads
    grad_value, grad_locations, grad_weights = grads
    dtype = computed_in(value, locations, weights)
    grad = grad.unflatten(2, value.shape[2:])
    for b, heads, _ in _parts(locations, shapes):
        rows_grad = grad[b, :, heads].transpose(0, 1).flatten(0, 1).to(dtype)
        for level, start, (h, w) in _levels(shapes):
            positions = slice(start, start + h * w)
            maps = value[b, positions, heads]
            points = locations[b, :, heads, level], weights[b, :, heads, level]
            found = _gradients(rows_grad, maps, *points, h, w)
            grad_value[b, positions, heads] = found[0]
            grad_locations[b, :, heads, level] = found[1]
            grad_weights[b, :, heads, level] = found[2]
    return grads


def computed_in(*tensors: Tensor) -> torch.dtype:
    """The dtype that tensors are computed in: float32, or wider where one is."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _parts(locations: Tensor, shapes: list[tuple[int, int]]) -> Iterator[tuple[int, slice, int]]:
    """Batch index, heads and their number, of each part that is computed at once."""
    B, Q, M, _, P, _ = locations.shape
    most = max(Q * P, *(h * w for h, w in shapes))
    on_cpu = locations.device.type == 'cpu'
    least = -(-(_POINTS_OF_A_CORE if on_cpu else _POINTS_OF_A_GPU) // most)
    cores = torch.get_num_threads() if on_cpu else 1
    parts = max(1, min(M // least, round(M / (least * cores))))
    for b in range(B):
        for i in range(parts):
            heads = slice(i * M // parts, (i + 1) * M // parts)
            yield b, heads, heads.stop - heads.start


def _levels(shapes: list[tuple[int, int]]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Number, first position and size of each level."""
    start = 0
    for level, (h, w) in enumerate(shapes):
        yield level, start, (h, w)
        start += h * w


def _sampled(
    maps: Tensor, locations: Tensor, weights: Tensor, h: int, w: int, dtype: torch.dtype
) -> Tensor:
    """What a level adds to the result.

    Args:
        maps: (h * w, R, D).
        locations: (Q, R, P, 2).
        weights: (Q, R, P).

    Returns:
        (R * Q, D).
    """
    P = weights.shape[2]
    table = _bordered(maps, h, w, dtype)
    cells, x, y, _ = _cells(locations, h, w, dtype)
    shares = _shares(x, y, weights.transpose(0, 1).to(dtype).contiguous())
    rows = _pixels(cells, w).view(-1, P)
    sums = F.embedding_bag(rows, table, mode='sum', per_sample_weights=shares.view(-1, P))
    return sums.view(4, -1, maps.shape[2]).sum(0)


def _gradients(
    rows_grad: Tensor, maps: Tensor, locations: Tensor, weights: Tensor, h: int, w: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a level's maps, locations and weights, shaped as they are.

    Args:
        rows_grad: (R * Q, D), gradient of the result.
        maps: (h * w, R, D).
        locations: (Q, R, P, 2).
        weights: (Q, R, P).
    """
    dtype = rows_grad.dtype
    cells, x, y, inside = _cells(locations, h, w, dtype)
    weight = weights.transpose(0, 1).to(dtype).contiguous()
    grad_maps = _grad_maps(rows_grad, cells, _shares(x, y, weight), h, w)
    dots = _dots(rows_grad, _bordered(maps, h, w, dtype), _pixels(cells, w))
    # The four are interpolated as the pixels were; their slopes move the location.
    left_top, right_top, left_bottom, right_bottom = dots
    right_top -= left_top
    right_bottom -= left_bottom
    top, bottom = left_top.addcmul_(x, right_top), left_bottom.addcmul_(x, right_bottom)
    slope_x = torch.lerp(right_top, right_bottom, y)
    slope_y = bottom.sub_(top)
    grad_weights = top.addcmul_(y, slope_y)
    weight = weight * inside  # may be the argument itself: not in place
    slopes = torch.stack([slope_x.mul_(weight).mul_(w), slope_y.mul_(weight).mul_(h)], -1)
    return grad_maps, slopes.transpose(0, 1), grad_weights.transpose(0, 1)


def _bordered(maps: Tensor, h: int, w: int, dtype: torch.dtype) -> Tensor:
    """(h * w, R, D) to (R * (h + 2) * (w + 2), D): one head after the other, zeros around each."""
    R, D = maps.shape[1:]
    table = torch.zeros(R, h + 2, w + 2, D, dtype=dtype, device=maps.device)
    table[:, 1:-1, 1:-1] = maps.transpose(0, 1).unflatten(1, (h, w))
    return table.view(-1, D)


def _cells(
    locations: Tensor, h: int, w: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where points lie in their map.

    Args:
        locations: (Q, R, P, 2).

    Returns:
        Row of the table that is the upper left pixel of the point's cell, the point's x and y in
        the cell from 0 to 1, and whether the map depends on it; each (R, Q, P).
    """
    xy = locations.permute(3, 1, 0, 2)
    xy = xy.to(dtype, memory_format=torch.contiguous_format, copy=True)
    x, y = xy[0].mul_(w).sub_(0.5), xy[1].mul_(h).sub_(0.5)
    inside = (x >= -1).logical_and_(x < w).logical_and_(y >= -1).logical_and_(y < h)
    x.clamp_(-1, w)
    y.clamp_(-1, h)
    # NaN passes through to the result; as an index it is clamped.
    column = x.floor().int().clamp_(-1, w - 1)
    cells = y.floor().int().clamp_(-1, h - 1)
    x -= column
    y -= cells
    heads = torch.arange(xy.shape[1], dtype=torch.int32, device=xy.device).view(-1, 1, 1)
    cells.add_(1).mul_(w + 2).add_(column).add_(1).add_(heads * ((h + 2) * (w + 2)))
    return cells, x, y, inside


def _shares(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """(4, R, Q, P): weights of the four pixels of each cell, row by row."""
    shares = x.new_empty(4, *x.shape)
    left_top, right_top, left_bottom, right_bottom = shares
    torch.mul(x, weight, out=right_top)
    torch.sub(weight, right_top, out=left_top)
    torch.mul(left_top, y, out=left_bottom)
    torch.mul(right_top, y, out=right_bottom)
    left_top -= left_bottom
    right_top -= right_bottom
    return shares


def _pixels(cells: Tensor, w: int) -> Tensor:
    """(4, R, Q, P): rows of the table of the four pixels of each cell, row by row."""
    corner = torch.arange(4, dtype=torch.int32, device=cells.device).view(4, 1, 1, 1)
    return cells + (corner % 2 + corner // 2 * (w + 2))


def _dots(rows_grad: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """(4, R, Q, P): products of each pixel's row of the table and its query's of the gradient."""
    query = torch.arange(len(rows_grad), dtype=torch.int32, device=rows.device)
    query = query.repeat_interleave(rows.shape[3]).repeat(4)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows_grad, table, rows.view(-1), query[:0], query, 0
    ).view(rows.shape)


def _grad_maps(rows_grad: Tensor, cells: Tensor, shares: Tensor, h: int, w: int) -> Tensor:
    """Gradient of a level's maps (h * w, R, D)."""
    R, Q, P = cells.shape
    D = rows_grad.shape[1]
    size = R * (h + 2) * (w + 2)
    if shares.numel() < size:  # few points on large maps: most cells have none
        products = shares.unsqueeze(-1) * rows_grad.view(R, Q, 1, D)
        total = rows_grad.new_zeros(size, D)
        total.index_add_(0, _pixels(cells, w).view(-1), products.view(-1, D))
        total = total.view(R, h + 2, w + 2, D)[:, 1:-1, 1:-1]
        return total.flatten(1, 2).transpose(0, 1)
    cells, order = cells.view(-1).sort(stable=True)
    counts = torch.bincount(cells, minlength=size)
    starts = counts.cumsum(0).sub_(counts)
    query = torch.div(order, P, rounding_mode='floor')
    total = rows_grad.new_zeros(R, h, w, D)
    for (dy, dx), share in zip(_CORNERS, shares, strict=True):
        share = share.view(-1).index_select(0, order)
        sums = F.embedding_bag(query, rows_grad, starts, mode='sum', per_sample_weights=share)
        # The cell whose corner (dy, dx) a pixel is begins dy rows and dx columns before it.
        sums = sums.view(R, h + 2, w + 2, D)
        total += sums[:, 1 - dy : h + 1 - dy, 1 - dx : w + 1 - dx]
    return total.view(R, h * w, D).transpose(0, 1)
