"""Buildings: boxes whose visible walls carry floors, windows, shops and brick in true perspective.

Shapes::

    h, w    pixels of one wall
    u       (1, w) metres along the wall
    v       (h, w) metres above the ground
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import NEAREST, Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import fractal_noise, jitter, pick_color

_WALLS = np.array(
    [
        (0.62, 0.34, 0.27),
        (0.55, 0.30, 0.24),
        (0.74, 0.62, 0.44),
        (0.78, 0.56, 0.38),
        (0.82, 0.78, 0.70),
        (0.72, 0.50, 0.42),
        (0.58, 0.54, 0.50),
        (0.66, 0.66, 0.56),
    ]
)
_ROOFS = np.array([(0.50, 0.27, 0.20), (0.34, 0.33, 0.34), (0.42, 0.34, 0.28), (0.30, 0.36, 0.36)])
_SMALLEST_WINDOW = 8.0  # pixels; a smaller window is wall to an annotator


@dataclass(frozen=True)
class Facade:
    """Look of a building; lengths in metres."""

    wall: np.ndarray
    frame: np.ndarray
    roof: np.ndarray
    window_width: float
    window_height: float
    pitch: float
    storey: float
    brick: bool
    shops: bool
    mirror: float  # share of sky in the glass
    lit: float  # share of windows with light behind them


@dataclass(frozen=True)
class Building:
    """An upright box on the ground, in metres; ``ridge`` is the height of a pitched roof on it."""

    left: float
    right: float
    near: float
    far: float
    height: float
    ridge: float
    facade: Facade

    def shadow(self, light: Light) -> np.ndarray:
        """Ground points (N, 3) whose hull the building's shadow fills."""
        reach = self.height / max(float(light.sun[1]), 0.2)
        base = np.array(
            [(x, 0.0, z) for x in (self.left, self.right) for z in (self.near, self.far)]
        )
        return np.concatenate([base, base - reach * light.sun * (1, 0, 1)])


def make_facade(rng: Generator, light: Light) -> Facade:
    """Draw the look of a building."""
    modern = rng.random() < 0.3
    pitch = rng.uniform(2.8, 4.6)
    return Facade(
        wall=pick_color(rng, _WALLS, 0.14),
        frame=jitter(rng, (0.85, 0.84, 0.8), 0.1) * (1.0 if rng.random() < 0.6 else 0.35),
        roof=pick_color(rng, _ROOFS),
        window_width=pitch * (rng.uniform(0.72, 0.88) if modern else rng.uniform(0.5, 0.68)),
        window_height=rng.uniform(1.6, 2.2),
        pitch=pitch,
        storey=rng.uniform(2.9, 3.6),
        brick=bool(rng.random() < 0.6),
        shops=bool(rng.random() < 0.45),
        mirror=float(rng.uniform(0.1, 0.6)),
        lit=float(rng.uniform(0.3, 0.7))
        if light.name == 'dusk'
        else float(rng.random() < 0.2) * 0.2,
    )


def _wall_pixels(
    rng: Generator,
    facade: Facade,
    light: Light,
    u: np.ndarray,
    v: np.ndarray,
    size: tuple[float, float],
    scale_at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    lit: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (h, w, 3) and class (h, w) of a wall.

    Args:
        size: Length and height of the wall in metres.
        scale_at: Pixels per metre along and up the wall, where ``u`` is given.
        lit: Light on the wall, (3,).
    """
    columns = max(1, int(size[0] / facade.pitch))
    storeys = max(1, int(size[1] / facade.storey))
    cell_u, cell_v = size[0] / columns, size[1] / storeys
    column = np.clip((u / cell_u).astype(np.int32), 0, columns - 1)
    storey = np.clip((v / cell_v).astype(np.int32), 0, storeys - 1)
    across = np.abs(u - (column + 0.5) * cell_u)
    up = v - storey * cell_v - 0.95
    width, height = min(facade.window_width, 0.9 * cell_u), min(facade.window_height, cell_v - 1.1)

    rim = 0.14
    glass = (across < width / 2) & (up > 0) & (up < height)
    frame = (across < width / 2 + rim) & (up > -rim) & (up < height + rim)
    frame |= glass & (across < 0.04)
    if facade.shops:
        street = storey == 0
        door = street & (column % 3 == rng.integers(3))
        shop = street & (across < 0.43 * cell_u) & (v > 0.45) & (v < cell_v - 0.65)
        glass = np.where(street, shop & ~door, glass)
        sign = street & (v >= cell_v - 0.65)
        frame = np.where(street, sign | (door & (across < 0.55) & (v < 2.2)), frame)
    glass &= ~(frame & (across < 0.04))

    wall = (
        facade.wall
        * (1 + 0.1 * fractal_noise(rng, *v.shape, max(3.0, v.shape[0] / 5), 2))[..., None]
    )
    if facade.brick:
        fine = np.clip(scale_at(u)[1] / 14, 0, 1)
        joint = np.mod(v, 0.3) < 0.06
        wall = wall * (1 - joint * (np.float32(0.22) * fine))[..., None]
    ledge = np.mod(v, cell_v) > cell_v - 0.18
    wall = wall * (1 - ledge * np.float32(0.15))[..., None]

    table = rng.random((storeys, columns, 2)).astype(np.float32)
    cell = table[storey, column]
    dark = np.array((0.12, 0.17, 0.24), np.float32) * (0.6 + cell[..., :1])
    glow = np.clip(0.25 + up / max(height, 0.5), 0, 1.2)[..., None]
    sky = (light.zenith * 0.5 + light.horizon * 0.5) * glow
    pane = dark + (sky - dark) * (facade.mirror * (0.5 + 0.5 * cell[..., :1]))
    lamp = np.array((0.95, 0.78, 0.45), np.float32) * (0.6 + 0.4 * cell[..., :1])
    pane = np.where(cell[..., 1:] < facade.lit, lamp, pane * 0.9)

    color = np.where(frame[..., None], facade.frame, wall) * lit
    color = np.where(glass[..., None], pane, color)
    # decided where a window has its middle, so that a window is labelled whole or not at all
    along, upward = scale_at((column + 0.5) * cell_u)
    labelled = np.minimum(along * width, upward * height) >= _SMALLEST_WINDOW
    label = np.where(glass & labelled, IDS['windowpane'], IDS['building']).astype(np.uint8)
    return np.clip(color, 0, 1).astype(np.float32), label


def paint_building(canvas: Canvas, rng: Generator, building: Building) -> None:
    """Paint the roof, the wall across the view and the wall along it that faces the camera."""
    camera, light, b = canvas.camera, canvas.light, building
    if b.ridge > 0:
        middle = (b.near + b.far) / 2
        inset = 0.12 * (b.right - b.left)
        roof = camera.project(
            np.array(
                [
                    (b.left - 0.3, b.height, b.near),
                    (b.right + 0.3, b.height, b.near),
                    (b.right - inset, b.height + b.ridge, middle),
                    (b.left + inset, b.height + b.ridge, middle),
                ]
            )
        )
        sprite = Sprite(camera, roof)
        if sprite.visible:
            sprite.polygon(roof, np.clip(b.facade.roof * light.shade((0, 0.7, -0.7)), 0, 1))
            color, alpha = sprite.finish()
            color = color * (1 + 0.12 * fractal_noise(rng, *alpha.shape, 5, 2))[..., None]
            canvas.paint(sprite.top, sprite.left, color, alpha, IDS['building'], middle)
    if b.left > 0 or b.right < 0:
        _paint_wall(canvas, rng, b, side=b.left if b.left > 0 else b.right)
    _paint_wall(canvas, rng, b, side=None)


def _paint_wall(canvas: Canvas, rng: Generator, b: Building, side: float | None) -> None:
    """The wall at Z = near (``side`` None), or the one at X = side."""
    camera, light = canvas.camera, canvas.light
    if side is None:
        ends = camera.project(np.array([(b.left, 0, b.near), (b.right, 0, b.near)]))[:, 0]
        closest = b.near
    else:
        ends = camera.project(np.array([(side, 0, b.near), (side, 0, b.far)]))[:, 0]
        closest = max(b.near, NEAREST)
    left, right = int(np.ceil(ends.min() - 0.5)), int(np.ceil(ends.max() - 0.5))
    left, right = max(left, 0), min(right, camera.width)
    scale = camera.scale(closest)
    top = max(0, int(camera.horizon - (b.height - camera.elevation) * scale) - 1)
    bottom = min(camera.height, int(camera.horizon + camera.elevation * scale) + 2)
    if right <= left or bottom <= top:
        return
    columns = np.arange(left, right, dtype=np.float32)[None] + 0.5 - camera.center
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - camera.horizon

    def scale_at(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if side is None:
            z = np.full_like(u, b.near)
            return camera.focal / z, camera.focal / z
        z = np.maximum(b.near + u, NEAREST)
        return camera.focal * abs(side) / z**2, camera.focal / z

    if side is None:
        z = np.full_like(columns, b.near)
        u, length = columns * (b.near / camera.focal) - b.left, b.right - b.left
        lit = light.shade((0, 0, -1))
    else:
        z = camera.focal * side / columns
        u, length = z - b.near, b.far - b.near
        lit = light.shade((-np.sign(side), 0, 0))
    v = camera.elevation - rows * (z / camera.focal)
    color, label = _wall_pixels(rng, b.facade, light, u, v, (length, b.height), scale_at, lit)
    alpha = ((v >= 0) & (v <= b.height)).astype(np.float32)
    canvas.paint(top, left, color, alpha, label, np.broadcast_to(z, v.shape))
