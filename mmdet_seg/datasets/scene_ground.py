"""The ground plane: grass, road, sidewalk and water, textured in world coordinates.

Every pixel below the horizon sees one point (X, Z) of the ground; its class follows from a plan
in metres, so that roads narrow towards the horizon and paving stones shrink as they do in a
photograph.

Shapes::

    h, W    the rows below the horizon
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_canvas import Canvas
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import noise_tile, pick_color, sample_tile

_GRASS = np.array([(0.34, 0.52, 0.16), (0.42, 0.55, 0.19), (0.30, 0.47, 0.15), (0.50, 0.55, 0.22)])
_ASPHALT = np.array(
    [(0.30, 0.30, 0.33), (0.36, 0.36, 0.38), (0.25, 0.25, 0.28), (0.34, 0.33, 0.34)]
)
_PAVING = np.array([(0.70, 0.62, 0.52), (0.66, 0.50, 0.43), (0.72, 0.66, 0.58), (0.62, 0.56, 0.52)])
_MARKING = np.array((0.82, 0.82, 0.76), np.float32)
_DEPTHS = np.array([(0.06, 0.28, 0.40), (0.08, 0.34, 0.36), (0.10, 0.26, 0.40), (0.14, 0.32, 0.30)])


@dataclass(frozen=True)
class Strip:
    """A way along the line ``X = x + slope * Z + bend * Z ** 2``, in metres."""

    class_name: str
    x: float
    half_width: float
    slope: float = 0.0
    bend: float = 0.0
    marked: bool = False

    def offset(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance of ground points from the middle of the way."""
        return x - (self.x + self.slope * z + self.bend * z * z)


@dataclass(frozen=True)
class Band:
    """What lies between two distances, right across the picture; the edges may wander."""

    class_name: str
    near: float
    far: float
    wander: float = 0.0


@dataclass
class GroundPlan:
    """What covers the ground: the base, and what lies on it in order."""

    base: str
    parts: list[Strip | Band] = field(default_factory=list)


class _Surface:
    """Ground coordinates of some rows below the horizon, and textures over them.

    Args:
        top: First row of the picture that is covered.
        bottom: Row after the last one.
    """

    def __init__(
        self, canvas: Canvas, rng: Generator, tile: np.ndarray, top: int, bottom: int
    ) -> None:
        camera = canvas.camera
        self.canvas, self.rng, self.tile, self.top = canvas, rng, tile, top
        rows = np.arange(top, bottom, dtype=np.float32) + 0.5 - camera.horizon
        self.z_column = (camera.focal * camera.elevation / np.maximum(rows, 0.25))[
            :, None
        ]  # (h, 1)
        columns = np.arange(camera.width, dtype=np.float32) + 0.5 - camera.center
        self.x = columns[None] * (self.z_column / camera.focal)
        self.z = np.broadcast_to(self.z_column, self.x.shape)
        # metres of ground behind one pixel, in depth, where detail is lost first
        self.footprint = self.z_column**2 / (camera.focal * camera.elevation)

    def grain(self, cell: float, stretch: float = 1.0) -> np.ndarray:
        """Noise with bumps of ``cell`` metres, fading where pixels cannot show it: (h, W)."""
        shift_x, shift_z = (float(v) for v in self.rng.uniform(0, 128, 2))
        step = 8 / cell
        x, z = self.x * (step / stretch) + shift_x, self.z * step + shift_z
        return sample_tile(self.tile, x, z) / (1 + (self.footprint / cell) ** 2)

    def detail(self, size: float) -> np.ndarray:
        """How well a line of ``size`` metres is seen, 0..1: (h, 1)."""
        return 1 / (1 + (self.footprint / size) ** 2)

    def grass(self) -> np.ndarray:
        first, second = pick_color(self.rng, _GRASS), pick_color(self.rng, _GRASS)
        mix = np.clip(0.5 + 0.8 * self.grain(6.0), 0, 1)[..., None]
        blades = self.grain(0.25) * 0.35 + self.grain(0.8) * 0.25
        return (first * (1 - mix) + second * mix) * (1 + blades)[..., None]

    def road(self, offset: np.ndarray, half_width: float, marked: bool) -> np.ndarray:
        color = (
            pick_color(self.rng, _ASPHALT)
            * (1 + 0.12 * self.grain(5.0) + 0.14 * self.grain(0.15))[..., None]
        )
        if not marked:
            return color
        along = np.mod(self.z_column + self.rng.uniform(0, 6), 6.0)
        paint = (np.abs(offset) < 0.09) & (along < 3.2)
        if self.rng.random() < 0.6:
            paint |= np.abs(np.abs(offset) - (half_width - 0.35)) < 0.07
        shown = (paint * (0.8 * self.detail(0.6)))[..., None]
        return color + (_MARKING - color) * shown

    def sidewalk(self) -> np.ndarray:
        size = self.rng.uniform(0.4, 1.3)
        color = pick_color(self.rng, _PAVING)
        x, z = self.x / size, self.z_column / size
        column, row = np.floor(x), np.floor(z)
        at_row = np.broadcast_to(row * 17.3, x.shape)
        stones = sample_tile(self.tile, column * 37.7, at_row) * self.detail(size)
        joints = (x - column < 0.07) | (z - row < 0.07)
        shade = 1 + 0.16 * stones + 0.1 * self.grain(0.2) + 0.08 * self.grain(4.0)
        return color * (shade - joints * (0.28 * self.detail(size * 0.5)))[..., None]

    def water(self) -> np.ndarray:
        """Mirror image of what is above the horizon, broken by ripples: already lit."""
        image, light = self.canvas.image, self.canvas.light
        ripples = self.grain(1.5, stretch=3.0) + 0.7 * self.grain(0.4, stretch=2.5)
        horizon = self.canvas.camera.horizon
        rows = np.arange(self.top, self.top + len(self.x), dtype=np.float32)[:, None]
        calm = self.rng.uniform(2, 12)
        mirror_y = np.clip(2 * horizon - rows + ripples * calm, 0, int(horizon) - 1)
        columns = np.arange(image.shape[1], dtype=np.float32)[None] + ripples * calm * 0.6
        mirror = cv2.remap(
            image,
            np.ascontiguousarray(columns, np.float32),
            np.ascontiguousarray(mirror_y, np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        body = pick_color(self.rng, _DEPTHS) * (light.ambient + light.sun_color * 0.6)
        grazing = np.clip(1 - 20 / (20 + self.z_column), 0.2, 0.6)[..., None]
        color = body * (1 - grazing) + mirror * grazing
        return color * (1 + 0.22 * ripples)[..., None]


def paint_ground(canvas: Canvas, rng: Generator, plan: GroundPlan) -> None:
    """Cover everything below the horizon as the plan says."""
    camera = canvas.camera
    tile = noise_tile(rng)
    top = max(0, int(np.ceil(camera.horizon - 0.5)))
    whole = _Surface(canvas, rng, tile, top, camera.height)
    light = canvas.light.shade((0, 1, 0))
    painters = {'grass': _Surface.grass, 'sidewalk': _Surface.sidewalk}
    color = painters[plan.base](whole) * light
    label = np.full(whole.x.shape, IDS[plan.base], np.uint8)
    for part in plan.parts:
        if isinstance(part, Strip):
            offset = part.offset(whole.x, whole.z)
            inside = np.abs(offset) < part.half_width
        else:
            edge = 1 + part.wander * sample_tile(tile, whole.x * 1.2, whole.x * 0)
            inside = (whole.z > part.near * edge) & (whole.z < part.far * edge)
        rows = np.flatnonzero(inside.any(1))
        if not rows.size:
            continue
        rows = slice(int(rows[0]), int(rows[-1]) + 1)
        surface = _Surface(canvas, rng, tile, top + rows.start, top + rows.stop)
        if part.class_name == 'water':
            new = surface.water()
        elif isinstance(part, Strip) and part.class_name == 'road':
            new = surface.road(offset[rows], part.half_width, part.marked) * light
        elif part.class_name == 'road':
            new = surface.road(surface.x, 0.0, marked=False) * light
        else:
            new = painters[part.class_name](surface) * light
        color[rows] = np.where(inside[rows, :, None], new, color[rows])
        label[inside] = IDS[part.class_name]
    alpha = np.ones(label.shape, np.float32)
    canvas.paint(top, 0, np.clip(color, 0, 1), alpha, label, whole.z)
