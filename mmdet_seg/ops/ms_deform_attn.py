"""Multi-scale deformable attention in plain PyTorch.

Shape letters: B batch, N positions of all levels, M heads, D channels of a head, L levels,
Q queries, P sampling points of a head on a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples of several maps, at places given per query.

    Works in any floating dtype, forward and backward. Half and bfloat16 inputs are sampled in
    float32 (a bfloat16 coordinate is off by a pixel from 256 pixels on) and the result is returned
    in the dtype of ``value``.

    Args:
        value: (B, N, M, D), the maps one after the other, each row-major.
        spatial_shapes: (L, 2), height and width of each map. A tensor on a GPU is copied to the
            host, which waits for the device; a list of pairs does not.
        sampling_locations: (B, Q, M, L, P, 2), x then y, 0 and 1 at the outer edges of the map.
            Outside a map there are zeros.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D).

    Raises:
        ValueError: A shape does not fit the others.

    Source:
        Deformable DETR, https://arxiv.org/abs/2010.04159; conventions of mmcv's
        ``multi_scale_deformable_attn_pytorch``.
    """
    shapes = _level_shapes(spatial_shapes)
    _check_shapes(value, shapes, sampling_locations, attention_weights)
    batch, _, heads, dim = value.shape
    queries = sampling_locations.shape[1]

    dtype = torch.promote_types(value.dtype, sampling_locations.dtype)
    dtype = torch.promote_types(torch.promote_types(dtype, attention_weights.dtype), torch.float32)
    # (B, N, M, D) -> (B*M, D, N): one image per head for grid_sample
    maps = value.to(dtype).permute(0, 2, 3, 1).reshape(batch * heads, dim, -1)
    grid = (2 * sampling_locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)
    weights = attention_weights.to(dtype).transpose(1, 2).flatten(0, 1)  # (B*M, Q, L, P)

    out = maps.new_zeros(batch * heads, dim, queries)
    levels = maps.split([h * w for h, w in shapes], dim=2)
    for level, (height, width) in enumerate(shapes):
        samples = F.grid_sample(
            levels[level].unflatten(2, (height, width)),
            grid[:, :, level],
            mode='bilinear',
            padding_mode='zeros',
            align_corners=False,
        )  # (B*M, D, Q, P)
        out = out + (samples * weights[:, None, :, level]).sum(-1)
    return out.view(batch, heads * dim, queries).transpose(1, 2).contiguous().to(value.dtype)


def _level_shapes(spatial_shapes: Tensor | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """``spatial_shapes`` as Python integers."""
    rows = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    try:
        return [(int(height), int(width)) for height, width in rows]
    except (TypeError, ValueError):
        raise ValueError(
            f'spatial_shapes={rows} is not a list of (height, width); give one pair per level.'
        ) from None


def _check_shapes(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> None:
    """Raise ValueError where the four arguments do not belong together."""
    if value.ndim != 4:
        raise ValueError(f'value has shape {tuple(value.shape)}; it must be (B, N, heads, dim).')
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(
            f'sampling_locations has shape {tuple(locations.shape)}; '
            'it must be (B, Q, heads, levels, points, 2).'
        )
    batch, positions, heads, _ = value.shape
    covered = sum(height * width for height, width in shapes)
    if covered != positions:
        raise ValueError(
            f'spatial_shapes={shapes} cover {covered} positions but value has {positions}; '
            'concatenate exactly these maps.'
        )
    expected = (batch, heads, len(shapes))
    found = (locations.shape[0], locations.shape[2], locations.shape[3])
    if found != expected:
        raise ValueError(
            f'sampling_locations has (B, heads, levels) = {found}, value and spatial_shapes have '
            f'{expected}; they must agree.'
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f'attention_weights has shape {tuple(weights.shape)}; sampling_locations asks for '
            f'{tuple(locations.shape[:-1])}.'
        )
