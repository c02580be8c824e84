"""Sliding windows in batches, with mmseg's logits.

Shapes: B images, C classes, (H, W) pixels of an image, (h, w) of a window.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Logits of the windows that go through the model together.
_WINDOW_BYTES = 512 << 20
# Of free accelerator memory that the sums over windows may take; beyond they are kept on the host.
_SHARE_OF_FREE = 0.5


def windows(
    size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom, right of every window, row by row.

    The last of a row or column is shifted back inside the image; an image smaller than a window has
    a single smaller one.
    """

    def starts(length: int, side: int, step: int) -> list[int]:
        count = max(length - side + step - 1, 0) // step + 1
        return [max(min(i * step, length - side), 0) for i in range(count)]

    (H, W), (h, w) = size, crop
    return [
        (y, x, min(y + h, H), min(x + w, W))
        for y in starts(H, h, stride[0])
        for x in starts(W, w, stride[1])
    ]


def slide(
    predict: Callable[[Tensor], Tensor],
    images: Sequence[Tensor],
    sums: Sequence[Tensor],
    crop: tuple[int, int],
    stride: tuple[int, int],
    batch: int | None = None,
) -> None:
    """Average the logits of overlapping windows into ``sums``.

    Windows of one size go through the model together, whichever image they come from. Their order
    is that of mmseg's loop, so sums are the same to the last bit where batches do not change the
    model's own rounding.

    Args:
        predict: (n, 3, h, w) -> (n, C, h, w).
        images: (3, H, W) each, of any sizes.
        sums: (C, H, W) each, zeros; receives the averages. May be on another device.
        crop: (h, w) of a window, pixels.
        stride: Pixels between neighbouring windows.
        batch: Windows at once; None takes as many as keep their logits under 512 MiB.
    """
    boxes = [windows(tuple(image.shape[1:]), crop, stride) for image in images]
    jobs = [(i, box) for i, found in enumerate(boxes) for box in found]
    for group in _groups(jobs, len(sums[0]), batch):
        logits = predict(torch.stack([images[i][:, t:b, x:r] for i, (t, x, b, r) in group]))
        for (i, (top, left, bottom, right)), values in zip(group, logits, strict=True):
            sums[i][:, top:bottom, left:right] += values.to(sums[i].device)
    for total, found in zip(sums, boxes, strict=True):
        if len(found) > 1:
            total /= _counts(total, found)


def new_sums(inputs: Tensor, num_classes: int) -> Tensor:
    """Zeros (B, C, H, W) for ``inputs`` (B, 3, H, W), on the host if the accelerator is full."""
    B, _, H, W = inputs.shape
    device = inputs.device
    if device.type == 'cuda':
        free = torch.cuda.mem_get_info(device)[0]
        if 4 * B * num_classes * H * W > _SHARE_OF_FREE * free:
            device = torch.device('cpu')
    return torch.zeros((B, num_classes, H, W), device=device)


def _groups(jobs: list, num_classes: int, batch: int | None) -> Iterator[list]:
    """Runs of windows of one size, no longer than ``batch``."""
    group: list = []
    shape, limit = None, 1
    for job in jobs:
        top, left, bottom, right = job[1]
        here = (bottom - top, right - left)
        if group and (here != shape or len(group) >= limit):
            yield group
            group = []
        if here != shape:
            shape = here
            limit = batch or max(1, _WINDOW_BYTES // (4 * num_classes * here[0] * here[1]))
        group.append(job)
    if group:
        yield group


def _counts(like: Tensor, found: list[tuple[int, int, int, int]]) -> Tensor:
    """How many windows cover a pixel: (1, H, W)."""
    counts = torch.zeros((1, *like.shape[1:]), device=like.device)
    for top, left, bottom, right in found:
        counts[:, top:bottom, left:right] += 1
    return counts
