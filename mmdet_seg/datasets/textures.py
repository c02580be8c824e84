"""Noise for surfaces and outlines.

Shapes::

    h, w    pixels
"""

import cv2
import numpy as np
from numpy.random import Generator


def smooth_noise(rng: Generator, h: int, w: int, cell: float, stretch: float = 1.0) -> np.ndarray:
    """Value noise, about -1..1.

    Args:
        cell: Size of one bump in pixels, vertically.
        stretch: Width of a bump over its height.

    Returns:
        (h, w) float32.
    """
    rows = max(2, round(h / cell) + 1)
    columns = max(2, round(w / (cell * stretch)) + 1)
    grid = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    return cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)


def fractal_noise(
    rng: Generator,
    h: int,
    w: int,
    cell: float,
    octaves: int = 3,
    stretch: float = 1.0,
    gain: float = 0.5,
) -> np.ndarray:
    """Sum of value noises, each half as large as the one before and ``gain`` times as strong.

    Returns:
        (h, w) float32, about -1..1.
    """
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        size = cell / 2**octave
        if size < 1:
            break
        total += smooth_noise(rng, h, w, size, stretch) * gain**octave
    return total


def outline(rng: Generator, length: int, cell: float, octaves: int = 5) -> np.ndarray:
    """A rugged line, as of a mountain ridge: (length,) float32, about -1..1."""
    total = np.zeros(length, np.float32)
    for octave in range(octaves):
        knots = max(2, round(length / cell * 2**octave) + 1)
        values = rng.random(knots, dtype=np.float32) * 2 - 1
        at = np.linspace(0, knots - 1, length, dtype=np.float32)
        total += np.interp(at, np.arange(knots), values).astype(np.float32) * 0.5**octave
    return total


def noise_tile(rng: Generator, size: int = 128) -> np.ndarray:
    """(size, size) float32 noise that repeats without a seam, mean 0, about -1..1."""
    tile = np.zeros((size, size), np.float32)
    for octave in range(4):
        cells = 8 * 2**octave
        grid = rng.random((cells, cells), dtype=np.float32) * 2 - 1
        grid = np.pad(grid, 2, mode='wrap')
        step = size // cells
        large = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        tile += large[2 * step : 2 * step + size, 2 * step : 2 * step + size] * 0.65**octave
    return tile / np.abs(tile).max()


def sample_tile(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read a seamless tile at any coordinates, in texels; same shape as ``x``, float32."""
    size = tile.shape[0]
    wrapped = [axis - np.floor(axis * (1 / size)) * size for axis in (x, y)]
    return cv2.remap(
        tile,
        wrapped[0].astype(np.float32, copy=False),
        wrapped[1].astype(np.float32, copy=False),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def jitter(rng: Generator, color: tuple[float, float, float], amount: float = 0.12) -> np.ndarray:
    """A colour near the given one: (3,) float32 in 0..1."""
    base = np.asarray(color, np.float32)
    gain = 1 + rng.uniform(-amount, amount)
    return np.clip(base * gain + rng.uniform(-amount, amount, 3) * 0.35, 0.02, 0.98).astype(
        np.float32
    )


def pick_color(rng: Generator, palette: np.ndarray, amount: float = 0.12) -> np.ndarray:
    """A jittered row of a palette (K, 3)."""
    return jitter(rng, palette[rng.integers(len(palette))], amount)
