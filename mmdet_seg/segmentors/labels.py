"""The best class of every pixel at the image's own size, without all logits at that size.

Shapes: C classes, (h, w) pixels of the logits, (H, W) of the image.
"""

import torch
from mmseg.models.utils import resize
from torch import Tensor

# Resized logits of the classes that are compared at once.
_CHUNK_BYTES = 256 << 20


def best_class(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resize a few classes at a time and keep the best: (C, h, w) -> (1, H, W) int64.

    Equals ``resize(logits, size).argmax(0)``: of equal values the first class wins.

    Args:
        logits: (C, h, w).
        size: (H, W).
        align_corners: Of the bilinear resizing.
    """
    step = max(1, _CHUNK_BYTES // (4 * size[0] * size[1]))
    best = value = None
    for start in range(0, len(logits), step):
        part = upscale(logits[start : start + step], size, align_corners)
        top, index = part.max(dim=0, keepdim=True)
        if value is None:
            best, value = index, top
        else:
            better = top > value
            best = torch.where(better, index + start, best)
            value = torch.where(better, top, value)
    return best


def upscale(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear: (C, h, w) -> (C, H, W)."""
    if tuple(logits.shape[1:]) == tuple(size):
        return logits
    return resize(
        logits[None], size=size, mode='bilinear', align_corners=align_corners, warning=False
    )[0]
