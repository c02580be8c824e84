"""Resampling of position tables and patch kernels, bicubic as in the authors' code.

Shapes: D channels, P x P patch, (h, w) grid of patches, K prefix tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_positions(table: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resample a square table of positions to another grid.

    Bicubic, ``align_corners=False``, no antialias, in float32, prefix positions untouched; the
    identity where the grid is already the one asked for.

    Args:
        table: (1, K + n*n, D).
        grid: (h, w) in patches.
        num_prefix_tokens: K.

    Returns:
        (1, K + h*w, D) in the table's dtype.

    Raises:
        ValueError: The patch positions of ``table`` are not a square grid.
    """
    prefix, patches = table[:, :num_prefix_tokens], table[:, num_prefix_tokens:]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise ValueError(
            f'{patches.shape[1]} patch positions are not a square grid; '
            f'with {num_prefix_tokens} prefix token(s) the table must hold '
            f'{num_prefix_tokens} + n*n rows.'
        )
    # An exported program decides nothing by its input's size; bicubic to the same size is identity.
    if not torch.compiler.is_exporting() and (side, side) == tuple(grid):
        return table
    maps = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    maps = F.interpolate(maps, size=tuple(grid), mode='bicubic', align_corners=False)
    patches = maps.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # (1, h*w, D)
    return torch.cat([prefix, patches], dim=1)


def resample_patch_kernel(weight: Tensor, patch_size: int) -> Tensor:
    """Resample the patch convolution's kernel (D, 3, p, p) to (D, 3, P, P), likewise bicubic."""
    if weight.shape[-2:] == (patch_size, patch_size):
        return weight
    size = (patch_size, patch_size)
    out = F.interpolate(weight.float(), size=size, mode='bicubic', align_corners=False)
    return out.to(weight.dtype)
