"""The images that are segmented worst and best, as PNGs beside the results."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmdet_seg.engine.images import read_image
from mmdet_seg.engine.prediction_panels import Panel, overlay
from mmdet_seg.probes.contact_sheet import contact_sheet
from mmdet_seg.probes.segment_data import SegmentData, TestImage
from mmdet_seg.probes.upsampled_loss import IGNORED

_SIDE = 320  # pixels of a panel
_WRONG = (220, 30, 30)


def write_pictures(
    folder: Path,
    label_of: Callable[[TestImage], Tensor],
    data: SegmentData,
    per_image: list[float],
    number: int,
) -> list[dict[str, Any]]:
    """Image, truth, prediction and what is wrong, of the worst and of the best images.

    Args:
        folder: To write to.
        label_of: Predicts (H, W) class numbers at the size of an image's label.
        data: Whose validation images they are.
        per_image: mIoU on every one of them, NaN where nothing is labelled.
        number: Of the worst, and again of the best.

    Returns:
        Entries of the results' ``pictures``.
    """
    ranked = sorted(
        (i for i, score in enumerate(per_image) if not math.isnan(score)),
        key=lambda i: per_image[i],
    )
    number = min(number, len(ranked) // 2)
    chosen = dict.fromkeys(ranked[:number], 'worst')
    chosen |= dict.fromkeys(ranked[::-1][:number], 'best')
    palette, found = np.array(data.palette, np.uint8), []
    for i, image in zip(chosen, data.validation(list(chosen)), strict=True):
        truth, label = image.label.numpy(), label_of(image).numpy()
        picture = _at_size(read_image(image.path), truth.shape)
        wrong = (truth != IGNORED) & (truth != label)
        faded = np.where(wrong[..., None], _WRONG, picture // 3 + 120).astype(np.uint8)
        panels = [
            Panel(picture, Path(image.path).name),
            Panel(overlay(picture, truth, palette), 'truth'),
            Panel(overlay(picture, label, palette), 'prediction'),
            Panel(faded, 'wrong'),
        ]
        kind = chosen[i]
        rank = sum(x['kind'] == kind for x in found) + 1
        file = f'{kind}_{rank}.png'
        contact_sheet([panels], _SIDE).save(folder / file)
        title = f'{kind} {rank}: {Path(image.path).name}, mIoU'
        found.append({'title': title, 'file': file, 'kind': kind, 'score': per_image[i]})
    return found


def _at_size(picture: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The image as it was labelled: a file that says how it is turned is read as it lies."""
    if picture.shape[:2] == tuple(size):
        return picture
    if picture.shape[1::-1] == tuple(size):
        return np.ascontiguousarray(np.rot90(picture))
    return np.zeros((*size, 3), np.uint8)
