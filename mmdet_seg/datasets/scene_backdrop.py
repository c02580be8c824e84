"""What lies behind everything else: sky, mountains, wooded hills, a far skyline.

Shapes::

    H, W    the picture
    h, W    the rows above the horizon
"""

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_canvas import Canvas
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import fractal_noise, jitter, outline, pick_color

_ROCK = np.array([(0.34, 0.38, 0.52), (0.40, 0.38, 0.50), (0.30, 0.38, 0.46), (0.42, 0.36, 0.52)])
_FOREST = np.array([(0.14, 0.28, 0.10), (0.19, 0.31, 0.10), (0.12, 0.24, 0.12)])
_SNOW = np.array((0.92, 0.94, 0.97), np.float32)
_TOWERS = np.array([(0.60, 0.55, 0.50), (0.64, 0.48, 0.40), (0.55, 0.50, 0.46), (0.72, 0.68, 0.60)])


def paint_sky(canvas: Canvas, rng: Generator) -> None:
    """Fill what is above the horizon with a gradient, clouds and the glow around the sun."""
    camera, light = canvas.camera, canvas.light
    h, w = min(int(camera.horizon) + 2, camera.height), camera.width
    rows = (np.arange(h, dtype=np.float32) + 0.5)[:, None]
    height = np.clip((camera.horizon - rows) / max(camera.horizon, 1), 0, 1)
    mix = (height ** rng.uniform(0.5, 0.9))[..., None]
    sky = light.horizon * (1 - mix) + light.zenith * mix
    sky = np.repeat(sky, w, axis=1)

    noise = fractal_noise(rng, h, w, h * rng.uniform(0.3, 0.7), 4, stretch=rng.uniform(1.5, 4))
    cover = np.clip((noise + light.clouds * 1.5 - 0.95) * rng.uniform(1.2, 3), 0, 1)
    cover *= np.clip(height * 6, 0, 1) * rng.uniform(0.6, 0.95)
    lit = np.clip((light.ambient + light.sun_color) * rng.uniform(0.75, 0.95), 0, 1)
    shadow = lit * rng.uniform(0.65, 0.85)
    body = np.clip(0.5 + 0.5 * noise, 0, 1)[..., None]
    clouds = lit * (1 - body * 0.5) + shadow * body * 0.5
    sky += (clouds - sky) * cover[..., None]

    if light.sun[2] > 0.2:  # the sun is ahead of the camera
        x = camera.center + camera.focal * light.sun[0] / light.sun[2]
        y = camera.horizon - camera.focal * light.sun[1] / light.sun[2]
        columns = (np.arange(w, dtype=np.float32) + 0.5)[None]
        away = ((columns - x) ** 2 + (rows - y) ** 2) / (0.25 * w) ** 2
        sky += light.sun_color * (0.5 * np.exp(-away)).astype(np.float32)[..., None]
    canvas.paint(0, 0, np.clip(sky, 0, 1), np.ones((h, w), np.float32), IDS['sky'])


def _paint_below(
    canvas: Canvas, line: np.ndarray, color: np.ndarray, class_id: int, distance: float
) -> None:
    """Fill from a line (row per column, (W,)) down to the horizon; ``color`` covers those rows."""
    bottom = color.shape[0]
    rows = (np.arange(bottom, dtype=np.float32) + 0.5)[:, None]
    alpha = np.clip(rows - line[None] + 0.5, 0, 1)
    canvas.paint(0, 0, color, alpha, class_id, distance)


def paint_mountains(canvas: Canvas, rng: Generator) -> None:
    """One to three ridges, the farthest first, some with snow."""
    camera, light = canvas.camera, canvas.light
    w = camera.width
    bottom = min(int(camera.horizon) + 2, camera.height)
    ridges = int(rng.integers(1, 4))
    peak = camera.horizon * rng.uniform(0.45, 0.9)
    snowy = rng.random() < 0.2
    for index in range(ridges):
        nearness = (index + 1) / ridges
        mean = peak * (1 - 0.6 * nearness * (ridges > 1))
        line = outline(rng, w, w * rng.uniform(0.3, 0.7))
        line = camera.horizon - mean * (0.72 + 0.38 * line)
        slope = fractal_noise(rng, bottom, w, max(6.0, peak * 0.35), 4)
        side = np.gradient(slope, axis=1) * w * 0.06 * np.sign(light.sun[0])
        palette = _FOREST if rng.random() < 0.1 else _ROCK
        rock = pick_color(rng, palette)[None, None] * (1 + 0.35 * np.clip(side, -1, 1))[..., None]
        if snowy and index == 0:
            rows = np.arange(bottom, dtype=np.float32)[:, None]
            depth = (camera.horizon - rows) / mean + 0.25 * slope
            rock = np.where((depth > 0.75)[..., None], _SNOW * (1 + 0.1 * side[..., None]), rock)
        lit = light.shade((np.sign(light.sun[0]) * 0.4, 0.7, -0.6))
        far = light.visibility * (0.8 - 0.5 * nearness) * rng.uniform(0.7, 1.0)
        _paint_below(
            canvas, line, np.clip(rock * lit, 0, 1).astype(np.float32), IDS['mountain'], far
        )


def paint_treeline(canvas: Canvas, rng: Generator, share: float = 1.0) -> None:
    """A wood on the horizon, over a share of the picture's width."""
    camera, light = canvas.camera, canvas.light
    w = camera.width
    bottom = min(int(camera.horizon) + 2, camera.height)
    distance = rng.uniform(60, 140)
    tall = max(5.0, camera.scale(distance) * rng.uniform(7, 14))
    shape = np.clip(
        1 + 0.3 * outline(rng, w, tall * 2.5, 4) + 0.12 * outline(rng, w, 5, 2), 0.05, None
    )
    if share < 1:
        start = rng.uniform(0, 1 - share) * w
        x = np.arange(w)
        shape *= np.clip((x - start) / (0.05 * w), 0, 1) * np.clip(
            (start + share * w - x) / (0.05 * w), 0, 1
        )
    line = camera.horizon - tall * shape
    leaves = fractal_noise(rng, bottom, w, max(4.0, tall * 0.35), 4, gain=0.7)
    leaves = pick_color(rng, _FOREST)[None, None] * (1.1 + 0.55 * leaves)[..., None]
    lit = light.shade((0, 0.6, -0.8))
    _paint_below(
        canvas, line, np.clip(leaves * lit, 0, 1).astype(np.float32), IDS['tree'], distance
    )


def paint_skyline(canvas: Canvas, rng: Generator) -> None:
    """A town on the horizon: blocks too far away for their windows to be labelled."""
    camera, light = canvas.camera, canvas.light
    bottom = min(int(camera.horizon) + 2, camera.height)
    distance = rng.uniform(90, 200)
    scale = camera.scale(distance)
    left = -rng.uniform(0, 10)
    lit = light.shade((0, 0, -1))
    while left < camera.width:
        width = max(8, int(scale * rng.uniform(10, 26)))
        tall = int(scale * rng.uniform(10, 45))
        top = max(0, bottom - tall)
        wall = np.broadcast_to(pick_color(rng, _TOWERS), (bottom - top, width, 3)).copy()
        pitch = int(rng.integers(3, 6))
        wall[2 :: pitch + 1, :, :] *= rng.uniform(0.7, 0.9)
        wall[:, 1::pitch, :] *= rng.uniform(0.75, 0.95)
        wall *= jitter(rng, (0.97, 0.97, 0.97), 0.05) * lit
        if rng.random() < 0.85:
            alpha = np.ones(wall.shape[:2], np.float32)
            canvas.paint(top, int(left), np.clip(wall, 0, 1), alpha, IDS['building'], distance)
        left += width * rng.uniform(0.7, 1.2)
