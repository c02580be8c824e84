"""What patches look like: three principal components of their features as colours.

Shapes: D channels, (h, w) grid, N cells of all images together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MOST_CELLS = 2048  # that the axes are computed from; every cell is projected on them
_TAILS = (0.01, 0.99)  # what lies outside these quantiles is cut off, or one cell sets all colours


def patch_colours(maps: Sequence[Tensor], *, foreground: bool = False) -> list[np.ndarray]:
    """Colours of the patches of one layer; equal features have equal colours in all images.

    Features are scaled to unit length first, since a few patches are very long in large encoders.

    Args:
        maps: (D, h, w) each, any sizes.
        foreground: Show as black what lies on the border's side of the first component and spread
            the colours over the rest, as DINOv2's authors do.

    Returns:
        (h, w, 3) uint8 each.

    Source:
        DINOv2, https://arxiv.org/abs/2304.07193, figure 1.
    """
    grids = [tuple(m.shape[-2:]) for m in maps]
    cells = torch.cat([m.flatten(1).T for m in maps]).float()  # (N, D)
    cells = torch.nn.functional.normalize(cells, dim=1)
    shown = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    if foreground:
        shown = _foreground(principal_components(cells, 1)[:, 0], grids)
    colours = torch.zeros(len(cells), 3, device=cells.device)
    if shown.any():
        components = principal_components(cells[shown], 3)
        low, high = (torch.quantile(components, q, dim=0) for q in _TAILS)
        # A component without any spread is rounding error, not a colour.
        spread = (high - low).where(high - low > 1e-5, torch.inf)
        colours[shown] = ((components - low) / spread).clamp(0, 1)
        if foreground:
            colours[shown] = 0.15 + 0.85 * colours[shown]  # none of it is black
    pixels = (255 * colours).round().to(torch.uint8).cpu()
    parts = pixels.split([h * w for h, w in grids])
    return [p.view(h, w, 3).numpy() for p, (h, w) in zip(parts, grids, strict=True)]


def principal_components(cells: Tensor, count: int) -> Tensor:
    """Projections of (N, D) cells on their first principal axes: (N, count) float32.

    The sign is fixed as scikit-learn does: the largest entry of every axis is positive. Components
    that the data do not have are zero.
    """
    mean = cells.mean(0)
    step = max(1, -(-len(cells) // _MOST_CELLS))
    centred = (cells[::step] - mean).double()
    N, D = centred.shape
    if D <= N:
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors  # ascending
    else:  # the same axes from the smaller matrix
        axes = centred.T @ torch.linalg.eigh(centred @ centred.T).eigenvectors
        axes = torch.nn.functional.normalize(axes, dim=0)
    axes = axes.flip(1)[:, :count]  # (D, count)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = (axes * largest.sign()).to(cells)
    found = (cells - mean) @ axes
    return torch.nn.functional.pad(found, (0, count - found.shape[1]))


def _foreground(first: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Which of the N cells lie on the side of the mean that has less of the images' borders."""
    above, border = first > 0, []
    for h, w in grids:
        edge = torch.ones(h, w, dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        border.append(edge.flatten())
    edge = torch.cat(border).to(first.device)
    return above if above[edge].float().mean() <= 0.5 else ~above
