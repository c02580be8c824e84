"""Fences and street lamps."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_classes import IDS, UNLABELLED
from mmdet_seg.datasets.textures import fractal_noise, pick_color

_WOODS = np.array(
    [
        (0.56, 0.40, 0.25),
        (0.62, 0.44, 0.26),
        (0.48, 0.33, 0.20),
        (0.92, 0.92, 0.90),
        (0.88, 0.87, 0.84),
    ]
)


@dataclass(frozen=True)
class Fence:
    """A fence of upright boards between two ground points, (x, z) in metres each."""

    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    board: float
    color: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, start: tuple[float, float], end: tuple[float, float]) -> 'Fence':
        """A fence of any colour."""
        return cls(
            start,
            end,
            float(rng.uniform(1.2, 1.9)),
            float(rng.uniform(0.24, 0.45)),
            pick_color(rng, _WOODS),
        )

    @property
    def distance(self) -> float:
        return (self.start[1] + self.end[1]) / 2

    def shadow(self, light: Light) -> np.ndarray:
        base = np.array([(x, 0.0, z) for x, z in (self.start, self.end)])
        return np.concatenate(
            [base, base - self.height / max(float(light.sun[1]), 0.25) * light.sun * (1, 0, 1)]
        )

    def contact(self) -> None:
        return None

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        (x0, z0), (x1, z1) = self.start, self.end
        length = float(np.hypot(x1 - x0, z1 - z0))

        def points(along: np.ndarray, up: np.ndarray) -> np.ndarray:
            t = np.asarray(along) / length
            world = np.stack([x0 + (x1 - x0) * t, np.asarray(up) + 0 * t, z0 + (z1 - z0) * t], 1)
            return canvas.camera.project(world)

        whole = points(
            np.array((0.0, length, length, 0.0)),
            np.array((0.0, 0.0, self.height * 1.08, self.height * 1.08)),
        )
        sprite = Sprite(canvas.camera, whole)
        if not sprite.visible:
            return
        normal = np.array((z1 - z0, 0.0, -(x1 - x0))) / length
        if normal[2] > 0:
            normal = -normal
        lit = canvas.light.shade(tuple(normal))
        outline = points(
            np.array((0.0, length, length, 0.0)), np.array((0.0, 0.0, self.height, self.height))
        )
        sprite.polygon(outline, self.color * lit * 0.5)  # the gaps between the boards
        starts = np.arange(0.0, length - self.board, self.board)
        along = starts[:, None] + self.board * np.array((0.0, 0.8, 0.8, 0.0))
        up = np.broadcast_to((0.05, 0.05, self.height, self.height * 1.04), along.shape)
        boards = points(along.ravel(), up.ravel()).reshape(-1, 4, 2)
        for board, tone in zip(boards, rng.uniform(0.85, 1.1, len(boards)), strict=True):
            sprite.polygon(board, self.color * lit * tone)
        for low in (0.25, 0.75):
            up = self.height * np.array((low, low, low + 0.08, low + 0.08))
            sprite.polygon(points(np.array((0.0, length, length, 0.0)), up), self.color * lit * 0.8)
        color, alpha = sprite.finish()
        color = color * (1 + 0.1 * fractal_noise(rng, *alpha.shape, 6, 2))[..., None]
        canvas.paint(sprite.top, sprite.left, color, alpha, IDS['fence'], self.distance)


@dataclass(frozen=True)
class Lamp:
    """A street lamp; annotators leave it out, so its pixels are unlabelled."""

    x: float
    z: float
    reach: float  # metres of the arm, negative to the left

    @property
    def distance(self) -> float:
        return self.z

    def shadow(self, light: Light) -> np.ndarray:
        base = np.array([(self.x - 0.06, 0, self.z), (self.x + 0.06, 0, self.z)])
        return np.concatenate(
            [base, base - 4.0 / max(float(light.sun[1]), 0.3) * light.sun * (1, 0, 1)]
        )

    def contact(self) -> None:
        return None

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        tall = 5.2
        corners = np.array(
            [
                (self.x - abs(self.reach) - 0.4, 0, self.z),
                (self.x + abs(self.reach) + 0.4, tall + 0.3, self.z),
            ]
        )
        sprite = Sprite(canvas.camera, canvas.camera.project(corners))
        if not sprite.visible:
            return
        metal = np.full(3, rng.uniform(0.15, 0.5)) * canvas.light.shade((0, 0, -1))

        def bar(x0: float, x1: float, y0: float, y1: float) -> None:
            corners = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)])
            quad = corners + np.array((self.x, 0, self.z))
            sprite.polygon(canvas.camera.project(quad), metal)

        bar(-0.09, 0.09, 0, tall)
        bar(0, self.reach, tall - 0.12, tall)
        bar(self.reach - 0.3, self.reach + 0.3, tall - 0.25, tall + 0.02)
        canvas.paint(sprite.top, sprite.left, *sprite.finish(), UNLABELLED, self.z)
