"""Trees and shrubs: outlines and foliage from noise, lit from the sun's side.

Shapes::

    h, w    pixels of one crown
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import fractal_noise, pick_color

_LEAVES = np.array(
    [
        (0.17, 0.32, 0.10),
        (0.22, 0.36, 0.11),
        (0.13, 0.26, 0.11),
        (0.28, 0.36, 0.13),
        (0.60, 0.40, 0.12),
        (0.50, 0.22, 0.12),
    ]
)
_LEAF_SHARES = np.array((0.32, 0.28, 0.2, 0.12, 0.05, 0.03))
_BARK = np.array([(0.30, 0.23, 0.17), (0.42, 0.37, 0.32), (0.24, 0.20, 0.18)])
_BUSHES = np.array([(0.22, 0.46, 0.32), (0.18, 0.40, 0.30), (0.32, 0.52, 0.36), (0.26, 0.48, 0.42)])
_FLOWERS = np.array(
    [(0.86, 0.30, 0.40), (0.92, 0.82, 0.30), (0.90, 0.88, 0.92), (0.62, 0.38, 0.75)]
)


def _foliage(
    rng: Generator, light: Light, h: int, w: int, color: np.ndarray, field: np.ndarray, clump: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and coverage of a mass of leaves.

    Args:
        field: (h, w), positive inside the outline, about 1 in the middle.
        clump: Pixels of one bunch of leaves.
    """
    bunches = fractal_noise(rng, h, w, max(2.5, clump), 5, gain=0.62)
    alpha = np.clip((field + 0.38 * bunches) * max(3.0, h / 9) + 0.5, 0, 1)
    side, top = np.sign(light.sun[0]), 0.6
    slope = np.gradient(bunches, axis=1) * side if w > 1 else 0 * bunches
    rise = np.gradient(bunches, axis=0) if h > 1 else 0 * bunches
    relief = np.clip((slope + top * rise) * 1.5, -1, 1)
    x = np.linspace(-1, 1, w, dtype=np.float32)[None] * side
    y = np.linspace(1, -1, h, dtype=np.float32)[:, None]
    lit = light.shade((0, 0.5, -0.8))
    bright = (
        0.92 + 0.28 * relief + 0.2 * x * float(light.sun_color.mean()) + 0.22 * y + 0.16 * bunches
    )
    return np.clip(color * lit * bright[..., None], 0, 1).astype(np.float32), alpha.astype(
        np.float32
    )


@dataclass(frozen=True)
class Tree:
    """A tree: ``kind`` is round, conifer or column."""

    x: float
    z: float
    height: float
    kind: str
    leaves: np.ndarray

    @classmethod
    def draw(
        cls, rng: Generator, x: float, z: float, low: float = 4.5, high: float = 11.0
    ) -> 'Tree':
        """A tree of any kind, with a height range in metres."""
        kind = str(rng.choice(['round', 'conifer', 'column'], p=[0.62, 0.23, 0.15]))
        color = _LEAVES[rng.choice(len(_LEAVES), p=_LEAF_SHARES)]
        return cls(x, z, float(rng.uniform(low, high)), kind, pick_color(rng, color[None]))

    @property
    def distance(self) -> float:
        return self.z

    @property
    def crown_width(self) -> float:
        """Metres across."""
        return self.height * {'round': 0.72, 'conifer': 0.46, 'column': 0.3}[self.kind]

    def shadow(self, light: Light) -> np.ndarray:
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        radius = self.crown_width * 0.42
        reach = min(0.6 * self.height / max(float(light.sun[1]), 0.25), 12.0)
        shift = -reach * light.sun
        return np.stack(
            [
                self.x + shift[0] + radius * np.cos(turn),
                0 * turn,
                self.z + shift[2] + radius * np.sin(turn),
            ],
            1,
        )

    def contact(self) -> np.ndarray:
        return np.array([(self.x + a, 0, self.z + b) for a in (-0.35, 0.35) for b in (-0.3, 0.3)])

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        camera, light = canvas.camera, canvas.light
        scale = camera.scale(self.z)
        foot = camera.project(np.array([(self.x, 0.0, self.z)]))[0]
        clear = (
            self.height
            * {'round': rng.uniform(0.16, 0.34), 'conifer': 0.06, 'column': 0.08}[self.kind]
        )
        thick = self.height * 0.022
        trunk = np.array(
            (
                (-thick, 0.0),
                (thick, 0.0),
                (thick * 0.7, self.height * 0.6),
                (-thick * 0.7, self.height * 0.6),
            )
        )
        outline = foot + trunk * (scale, -scale)
        sprite = Sprite(camera, outline)
        if sprite.visible:
            sprite.polygon(
                outline,
                pick_color(rng, _BARK) * light.shade((0.3 * np.sign(light.sun[0]), 0, -0.9)),
            )
            canvas.paint(sprite.top, sprite.left, *sprite.finish(), IDS['tree'], self.z)
        w = max(3, round(self.crown_width * scale * 1.3))
        h = max(3, round((self.height - clear) * scale * 1.2))
        left, top = round(foot[0] - w / 2), round(foot[1] - self.height * scale * 1.08)
        if left > camera.width or left + w < 0 or top + h < 0:
            return
        x = np.linspace(-1, 1, w, dtype=np.float32)[None]
        y = np.linspace(0, 1, h, dtype=np.float32)[:, None]
        if self.kind == 'conifer':
            tier = 0.12 * (1 - 2 * np.abs(np.mod(y * 5, 1) - 0.5))
            field = np.minimum(0.7 * y + tier - 0.05 - np.abs(x), (0.9 - y) * 6)
        else:
            field = (0.68 if self.kind == 'round' else 0.85) - x**2 - ((y - 0.5) * 2) ** 2
        color, alpha = _foliage(
            rng, light, h, w, self.leaves, field, max(2.5, min(h / 5, 1.3 * scale))
        )
        canvas.paint(top, left, color, alpha, IDS['tree'], self.z)


@dataclass(frozen=True)
class Shrub:
    """A bush, a hedge (wide) or a flower bed (low)."""

    x: float
    z: float
    width: float
    height: float
    leaves: np.ndarray
    flowers: np.ndarray | None

    @classmethod
    def draw(cls, rng: Generator, x: float, z: float, width: float | None = None) -> 'Shrub':
        """A shrub of any kind; ``width`` in metres."""
        width = float(width or rng.uniform(1.4, 3.2))
        flowers = pick_color(rng, _FLOWERS) if rng.random() < 0.75 else None
        return cls(x, z, width, float(rng.uniform(0.8, 1.7)), pick_color(rng, _BUSHES), flowers)

    @property
    def distance(self) -> float:
        return self.z

    def shadow(self, light: Light) -> np.ndarray:
        base = self.contact()
        return np.concatenate(
            [base, base - self.height / max(float(light.sun[1]), 0.25) * light.sun * (1, 0, 1)]
        )

    def contact(self) -> np.ndarray:
        half = self.width / 2
        return np.array([(self.x + a, 0, self.z + b) for a in (-half, half) for b in (-0.4, 0.4)])

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        camera, light = canvas.camera, canvas.light
        scale = camera.scale(self.z)
        foot = camera.project(np.array([(self.x, 0.0, self.z)]))[0]
        w, h = max(4, round(self.width * scale)), max(3, round(self.height * scale))
        left, top = round(foot[0] - w / 2), round(foot[1] - h)
        if left > camera.width or left + w < 0:
            return
        x = np.linspace(-1, 1, w, dtype=np.float32)[None]
        y = np.linspace(1, 0, h, dtype=np.float32)[:, None]
        field = np.minimum(0.9 - np.abs(x) ** 5 - y**3, (0.75 - np.abs(x)) * 4)
        color, alpha = _foliage(rng, light, h, w, self.leaves, field, max(2.0, 0.4 * scale))
        if self.flowers is not None:
            dots = fractal_noise(rng, h, w, max(1.6, 0.07 * scale), 1) > 0.4
            color = np.where(dots[..., None], self.flowers * light.shade((0, 0.5, -0.8)), color)
        canvas.paint(top, left, np.clip(color, 0, 1), alpha, IDS['plant'], self.z)
