"""Masks as people draw them: grey values, palettes or colours, to one number per pixel."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

VALUES, COLORS = 'values', 'colors'
IGNORE = 255
# Pillow's modes that hold one number per pixel; a palette's numbers are what counts, not its look.
_ONE_NUMBER = {'1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L'}


def read_mask(path: str | Path, coding: str | None = None) -> tuple[np.ndarray, str]:
    """Read a mask as numbers.

    Args:
        path: Any image file.
        coding: ``values`` or ``colors``; None tells them apart by the file alone.

    Returns:
        (H, W) int32 keys and the coding they have: grey or palette values as they are, colours as
        ``red << 16 | green << 8 | blue``. A colour file that holds only greys counts as values.

    Raises:
        ValueError: Not an image that can be read, or of a mode without a meaning here.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, bands = image.mode, image
            if mode in ('LA', 'PA'):
                bands = image.getchannel(0)
            if mode in _ONE_NUMBER | {'LA', 'PA'} and coding != COLORS:
                return np.asarray(bands).astype(np.int32), VALUES
            if mode not in _ONE_NUMBER | {'LA', 'PA', 'RGB', 'RGBA'}:
                raise ValueError(
                    f'{path}: a mask of mode {mode}; save it as a grey, palette or RGB PNG.'
                )
            pixels = np.asarray(image.convert('RGB')).astype(np.int32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: cannot be read as an image ({what_is_wrong(error)}).') from error
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    if coding != COLORS and (red == green).all() and (green == blue).all():
        return red, VALUES
    if coding == VALUES:
        raise ValueError(f'{path}: a coloured mask among masks of plain values.')
    return red << 16 | green << 8 | blue, COLORS


def what_is_wrong(error: Exception) -> str:
    """Pillow's message, without the object that it could not identify."""
    if isinstance(error, UnidentifiedImageError):
        return 'no kind of image that is known'
    return str(error)


def to_classes(mask: np.ndarray, keys: list[int]) -> np.ndarray:
    """Keys to class numbers.

    Args:
        mask: (H, W) int32 of :func:`read_mask`.
        keys: One key per class.

    Returns:
        (H, W) uint8: position in ``keys``, 255 for what is not among them.
    """
    order = np.argsort(keys)
    ordered = np.asarray(keys)[order]
    found = np.searchsorted(ordered, mask).clip(max=len(keys) - 1)
    return np.where(ordered[found] == mask, order[found], IGNORE).astype(np.uint8)


def key_to_parts(key: int, coding: str) -> list[int]:
    """``[value]``, or ``[red, green, blue]``."""
    return [key] if coding == VALUES else [key >> 16, key >> 8 & 255, key & 255]


def parts_to_key(parts: list[int]) -> int:
    """Inverse of :func:`key_to_parts`."""
    return parts[0] if len(parts) == 1 else parts[0] << 16 | parts[1] << 8 | parts[2]
