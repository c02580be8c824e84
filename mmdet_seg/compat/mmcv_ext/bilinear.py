"""Bilinear interpolation with the border rule of mmcv's region operators."""

from collections.abc import Iterator

import torch
from torch import Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around a place and their weights.

    Up to a pixel outside the map a place takes the value of the border; beyond, all weights are 0.

    Args:
        y: Row, any shape.
        x: Column, the same shape.
        height: Rows of the map.
        width: Columns of the map.

    Yields:
        ``row * width + column`` and the weight, in the shape of ``y``; top left, top right,
        bottom left, bottom right.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    # `where` first: nan, the place of a diverged model, has no index
    y = torch.where(inside, y, 0).clamp(0, height - 1)
    x = torch.where(inside, x, 0).clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = (y - top) * inside, (x - left) * inside
    up, back = (1 - (y - top)) * inside, 1 - (x - left)
    yield top * width + left, up * back
    yield top * width + right, up * across
    yield bottom * width + left, down * back
    yield bottom * width + right, down * across
