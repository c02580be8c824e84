"""From light to a file's pixels: lens, exposure, white balance and noise."""

import cv2
import numpy as np
from numpy.random import Generator


def photograph(rng: Generator, image: np.ndarray) -> np.ndarray:
    """Turn light into pixels.

    Args:
        image: (H, W, 3) float32 RGB, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    h, w = image.shape[:2]
    blur = rng.uniform(0.4, 0.75) if rng.random() < 0.85 else rng.uniform(0.75, 1.3)
    image = cv2.GaussianBlur(image, (0, 0), blur)

    warmth = rng.normal(0, 0.03)
    balance = np.array((1 + warmth, 1 + rng.normal(0, 0.012), 1 - warmth), np.float32)
    level = float(image.mean())
    exposure = (rng.uniform(0.43, 0.54) / max(level, 0.08)) ** 0.9
    image = image * (balance * np.float32(exposure))

    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, w, dtype=np.float32)[None]
    image *= (1 - rng.uniform(0.0, 0.16) * (x * x + y * y))[..., None]

    contrast = rng.uniform(0.9, 1.2)
    image = 0.45 + (image - 0.45) * np.float32(contrast)
    np.clip(image, 0, 1, out=image)
    read, shot = rng.uniform(0.003, 0.015), rng.uniform(0.005, 0.025)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += noise * np.sqrt(np.float32(read**2) + np.float32(shot**2) * image)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
