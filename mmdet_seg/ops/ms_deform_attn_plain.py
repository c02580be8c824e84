"""Multi-scale deformable attention as a graph of plain operators.

What is exported must not need this package, and what is differentiated twice needs operators that
can be. No ``grid_sample``: TensorRT computes it wrongly without saying so
(https://github.com/NVIDIA/TensorRT/issues/4813).

Shape letters as in :mod:`mmdet_seg.ops.ms_deform_attn`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdet_seg.ops.ms_deform_attn_torch import computed_in


def plain(
    value: Tensor,
    shapes: Tensor | Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """The attended values (B, Q, M * D); sizes may be symbols, and ``shapes`` a traced tensor.

    Args:
        value: (B, N, M, D).
        shapes: (L, 2), height and width of each level.
        locations: (B, Q, M, L, P, 2).
        weights: (B, Q, M, L, P).
    """
    B, N, M, D = value.shape
    dtype = computed_in(value, locations, weights)
    rows = value.to(dtype).transpose(1, 2).reshape(B * M * N, D)
    first = torch.arange(B * M, device=value.device).view(B, 1, M, 1) * N
    out = torch.zeros((), dtype=dtype, device=value.device)
    for level in range(locations.shape[3]):
        h, w = shapes[level][0], shapes[level][1]
        points = locations[:, :, :, level].to(dtype)  # (B, Q, M, P, 2)
        x, y = points[..., 0] * w - 0.5, points[..., 1] * h - 0.5
        left, top = x.floor(), y.floor()
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = left + dx, top + dy
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                share = share * inside * weights[:, :, :, level]
                index = torch.where(inside, row * w + column, 0).long() + first
                samples = rows[index]  # (B, Q, M, P, D)
                out = out + (share.unsqueeze(-2) @ samples).squeeze(-2)
        first = first + h * w
    return out.flatten(2).to(value.dtype)
