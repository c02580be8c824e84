"""Boats: hull, cabin and sails, moored on the water."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_vehicles import GLASS, LIVERIES, Pose, Solid, finish, footprint, inset
from mmdet_seg.datasets.textures import jitter, pick_color

_HULLS = np.array(
    [
        (0.90, 0.90, 0.90),
        (0.60, 0.32, 0.16),
        (0.76, 0.16, 0.12),
        (0.90, 0.88, 0.82),
        (0.14, 0.20, 0.36),
    ]
)


@dataclass(frozen=True)
class Boat:
    """A rowing boat, motor boat (with a cabin) or sailing boat."""

    pose: Pose
    kind: str
    paint_color: np.ndarray
    sail: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, pose: Pose) -> 'Boat':
        """A boat of any kind and colour."""
        kind = str(rng.choice(['rowing', 'motor', 'sailing'], p=[0.25, 0.4, 0.35]))
        sail = jitter(rng, (0.92, 0.91, 0.87)) if rng.random() < 0.7 else pick_color(rng, LIVERIES)
        return cls(pose, kind, pick_color(rng, _HULLS), sail)

    @property
    def distance(self) -> float:
        return self.pose.nearest(2.5)

    def shadow(self, light: Light) -> None:
        return None

    def contact(self) -> np.ndarray:
        base = footprint(self.pose, 5.6, 0.9)
        return np.concatenate([base, base - (0, 0, 1.6)])  # the dark mirror image of the hull

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        size = {'rowing': 1.0, 'motor': 1.4, 'sailing': 1.2}[self.kind]
        profile = size * np.array(((-2.4, 0.0), (-2.6, 0.75), (0.8, 0.75), (3.0, 1.0), (2.2, 0.0)))
        half = size * np.array((0.6, 0.8, 0.85, 0.08, 0.05))
        solid = Solid(canvas.camera, canvas.light, self.pose, profile, half)
        mast = size * (6.5 if self.kind == 'sailing' else 2.2)
        tips = solid.pixels(size * np.array((-2.6, 3.0)), np.full(2, mast), 0.0)
        sprite = Sprite(canvas.camera, np.concatenate([solid.hull(), tips]))
        if not sprite.visible:
            return
        light, paint = canvas.light, self.paint_color
        inside = np.array((0.62, 0.55, 0.45))
        for index, face, lit in solid.strips():
            sprite.polygon(face, (inside if index in (1, 2) else paint) * lit)
        if self.kind == 'motor':
            cabin = size * np.array(((-1.2, 0.7), (-1.2, 1.7), (0.5, 1.7), (1.1, 0.75)))
            house = Solid(canvas.camera, light, self.pose, cabin, np.full(4, size * 0.6))
            for index, face, lit in house.strips():
                sprite.polygon(face, jitter(rng, (0.85, 0.85, 0.83), 0.04) * lit)
                if index == 2:
                    sprite.polygon(inset(face, 0.25), GLASS * 1.3)
            sprite.polygon(house.side_outline(), 0.85 * house.side_light)
            window = house.side_quad(-size, 0.4 * size, 1.15 * size, 1.5 * size, 0.6 * size)
            sprite.polygon(window, GLASS * 1.3)
        sprite.polygon(solid.side_outline(), paint * solid.side_light)
        stripe = profile[[1, 3]] - (0, 0.12 * size)
        band = np.concatenate([stripe, stripe[::-1] - (0, 0.12 * size)])
        across = solid.side * half[[1, 3, 3, 1]]
        sprite.polygon(solid.pixels(band[:, 0], band[:, 1], across), 0.9 * solid.side_light)
        if self.kind == 'sailing':
            lit = np.maximum(solid.side_light, light.ambient)
            wood = np.array((0.45, 0.35, 0.25))
            for along, up, color in (
                ((0.35, 0.45, 0.45, 0.35), (0.7, 0.7, 6.4, 6.4), wood),
                ((0.3, 0.3, -2.2), (1.3, 6.2, 1.5), self.sail),
                ((0.55, 0.55, 2.6), (1.0, 5.6, 1.0), self.sail * 0.92),
            ):
                sprite.polygon(
                    solid.pixels(size * np.array(along), size * np.array(up), 0.0), color * lit
                )
        finish(canvas, rng, sprite, 'boat', self.distance)
