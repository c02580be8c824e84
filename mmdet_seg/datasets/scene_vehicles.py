"""Cars and buses: side profiles drawn out to solids and seen in true perspective.

A profile is a closed outline in (length, height), metres, rear to front over the top; its half
widths give each point's distance from the plane of symmetry.

Shapes::

    K       points of a profile
    local   (N, 3)  along, up, across, metres
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import Camera, Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import fractal_noise, pick_color

_PAINTS = np.array(
    [
        (0.88, 0.88, 0.90),
        (0.62, 0.63, 0.66),
        (0.36, 0.37, 0.39),
        (0.10, 0.10, 0.12),
        (0.76, 0.10, 0.10),
        (0.10, 0.22, 0.62),
        (0.70, 0.12, 0.14),
        (0.12, 0.36, 0.66),
        (0.16, 0.36, 0.24),
        (0.84, 0.84, 0.88),
    ]
)
LIVERIES = np.array(
    [
        (0.92, 0.74, 0.08),
        (0.95, 0.66, 0.06),
        (0.90, 0.78, 0.16),
        (0.88, 0.14, 0.10),
        (0.90, 0.36, 0.06),
        (0.16, 0.34, 0.66),
    ]
)
GLASS = np.array((0.14, 0.16, 0.19))
_CAR_PROFILES = (
    (
        (-2.1, 0.3),
        (-2.15, 0.85),
        (-1.55, 0.98),
        (-1.1, 1.4),
        (0.25, 1.42),
        (1.0, 0.95),
        (2.05, 0.78),
        (2.15, 0.3),
    ),
    (
        (-1.9, 0.3),
        (-1.98, 0.95),
        (-1.9, 1.0),
        (-1.55, 1.48),
        (0.3, 1.5),
        (1.05, 1.0),
        (1.85, 0.82),
        (1.95, 0.3),
    ),
    (
        (-2.2, 0.4),
        (-2.3, 1.1),
        (-2.2, 1.15),
        (-2.0, 1.75),
        (0.2, 1.78),
        (1.0, 1.15),
        (2.1, 1.0),
        (2.25, 0.4),
    ),
)


@dataclass(frozen=True)
class Pose:
    """A place on the ground and a heading: 0 drives away from the camera, pi / 2 to the right."""

    x: float
    z: float
    yaw: float

    def nearest(self, half_length: float) -> float:
        """Distance of the end that is nearer to the camera."""
        return float(self.z - half_length * abs(np.cos(self.yaw)))

    def world(self, local: np.ndarray) -> np.ndarray:
        """(N, 3) along, up, across to (N, 3) world."""
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        along, across = local[:, 0], local[:, 2]
        points = np.empty((len(local), 3))
        points[:, 0] = self.x + along * sin + across * cos
        points[:, 1] = local[:, 1]
        points[:, 2] = self.z + along * cos - across * sin
        return points


class Solid:
    """A profile drawn out sideways, and what its faces receive of the light."""

    def __init__(
        self, camera: Camera, light: Light, pose: Pose, profile: np.ndarray, half_widths: np.ndarray
    ) -> None:
        self.camera, self.light, self.pose = camera, light, pose
        self.profile, self.half_widths = profile, half_widths
        self.count = len(profile)
        eye = np.array((0.0, camera.elevation, 0.0))
        across = pose.world(np.array([(0.0, 0.0, 1.0)]))[0] - pose.world(np.zeros((1, 3)))[0]
        self.side = 1.0 if float(across @ (eye - (pose.x, 0.0, pose.z))) > 0 else -1.0
        self.side_light = light.shade(tuple(self.side * across))

    def pixels(self, along: np.ndarray, up: np.ndarray, across: np.ndarray | float) -> np.ndarray:
        """Local points to pixels (N, 2)."""
        local = np.empty((len(along), 3))
        local[:, 0], local[:, 1], local[:, 2] = along, up, across
        return self.camera.project(self.pose.world(local))

    def hull(self) -> np.ndarray:
        """Pixels (2K, 2) whose bounding box holds the solid."""
        both = [
            self.pixels(self.profile[:, 0], self.profile[:, 1], s * self.half_widths)
            for s in (-1, 1)
        ]
        return np.concatenate(both)

    def strips(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Faces across the profile that are seen, farthest first: index, pixels (4, 2), light."""
        faces = []
        for i in range(self.count):
            j = (i + 1) % self.count
            (l0, y0), (l1, y1) = self.profile[i], self.profile[j]
            w0, w1 = self.half_widths[i], self.half_widths[j]
            local = np.array([(l0, y0, -w0), (l1, y1, -w1), (l1, y1, w1), (l0, y0, w0)])
            world = self.pose.world(local)
            tip = np.array([(y0 - y1, l1 - l0, 0.0)])  # the outline runs clockwise: outward normal
            normal = (self.pose.world(tip) - self.pose.world(np.zeros((1, 3))))[0]
            middle = world.mean(0)
            if float(normal @ ((0, self.camera.elevation, 0) - middle)) <= 0:
                continue
            lit = self.light.shade(tuple(normal / max(np.linalg.norm(normal), 1e-6)))
            faces.append((float(middle[2]), i, self.camera.project(world), lit))
        faces.sort(key=lambda face: -face[0])
        return [face[1:] for face in faces]

    def side_outline(self) -> np.ndarray:
        """Pixels (K, 2) of the side that is seen."""
        return self.pixels(self.profile[:, 0], self.profile[:, 1], self.side * self.half_widths)

    def side_quad(self, l0: float, l1: float, y0: float, y1: float, across: float) -> np.ndarray:
        """Pixels (4, 2) of an upright rectangle on the side that is seen."""
        return self.pixels(
            np.array((l0, l1, l1, l0)), np.array((y0, y0, y1, y1)), self.side * across
        )

    def wheel(self, along: float, radius: float, across: float) -> np.ndarray:
        """Pixels (12, 2) of a wheel on the side that is seen."""
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        return self.pixels(
            along + radius * np.cos(turn), radius + radius * np.sin(turn), self.side * across
        )


def inset(quad: np.ndarray, amount: float) -> np.ndarray:
    """Shrink a polygon towards its middle."""
    return quad + (quad.mean(0) - quad) * amount


def footprint(pose: Pose, length: float, half_width: float) -> np.ndarray:
    corners = [(x, 0.0, z) for x in (-length / 2, length / 2) for z in (-half_width, half_width)]
    return pose.world(np.array(corners))


@dataclass(frozen=True)
class Car:
    """A passenger car."""

    pose: Pose
    kind: int
    paint_color: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, pose: Pose) -> 'Car':
        """A car of any kind and colour."""
        return cls(pose, int(rng.integers(len(_CAR_PROFILES))), pick_color(rng, _PAINTS))

    @property
    def distance(self) -> float:
        return self.pose.nearest(2.1)

    def shadow(self, light: Light) -> np.ndarray:
        base = footprint(self.pose, 4.2, 0.85)
        return np.concatenate(
            [base, base - 1.1 / max(float(light.sun[1]), 0.25) * light.sun * (1, 0, 1)]
        )

    def contact(self) -> np.ndarray:
        return footprint(self.pose, 4.2, 0.85)

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        profile = np.array(_CAR_PROFILES[self.kind])
        half = np.full(len(profile), 0.88)
        half[3:5] = 0.68  # the roof is narrower
        solid = Solid(canvas.camera, canvas.light, self.pose, profile, half)
        ground = footprint(self.pose, 4.4, 0.9)
        sprite = Sprite(
            canvas.camera, np.concatenate([solid.hull(), canvas.camera.project(ground)])
        )
        if not sprite.visible:
            return
        paint, light = self.paint_color, canvas.light
        dark = np.array((0.07, 0.07, 0.08))
        sky = light.horizon * 0.45
        for wheel in (-1.3, 1.3):
            for across in (-0.8, 0.8):
                side = solid.side * across
                sprite.polygon(solid.wheel(wheel, 0.33, side), dark)
        for index, face, lit in solid.strips():
            sprite.polygon(face, paint * lit)
            if index in (2, 4):
                sprite.polygon(inset(face, 0.16), (GLASS + sky * 0.5) * lit.clip(0.5))
            if index in (0, 6):  # rear and front
                lamp = (0.75, 0.08, 0.06) if index == 0 else (0.92, 0.92, 0.84)
                low, high = face[:, 1].min(), face[:, 1].max()
                centre = face.mean(0)
                wide = face[:, 0].max() - face[:, 0].min()
                for sign in (-0.38, 0.38):
                    y = high - 0.62 * (high - low)
                    sprite.ellipse(
                        centre[0] + sign * wide, y, 0.09 * wide, 0.1 * (high - low), np.array(lamp)
                    )
                sprite.ellipse(
                    centre[0],
                    high - 0.3 * (high - low),
                    0.14 * wide,
                    0.07 * (high - low),
                    np.full(3, 0.8),
                )
        sprite.polygon(solid.side_outline(), paint * solid.side_light)
        rear, front = profile[2, 0], profile[5, 0]
        base, roof = profile[2, 1], profile[3, 1] - 0.08
        for l0, l1, slant0, slant1 in ((rear, -0.35, 0.5, 0.0), (-0.25, front, 0.0, 0.75)):
            window = solid.pixels(
                np.array(
                    (l0 + 0.15, l1 - 0.05, l1 - 0.05 - slant1 * 0.9, l0 + 0.15 + slant0 * 0.7)
                ),
                np.array((base, base, roof, roof)),
                solid.side * np.array((0.86, 0.86, 0.7, 0.7)),
            )
            sprite.polygon(window, (GLASS + sky * 0.6) * solid.side_light.clip(0.5))
        for wheel in (-1.3, 1.3):
            sprite.polygon(solid.wheel(wheel, 0.34, 0.88), dark)
            sprite.polygon(
                solid.wheel(wheel, 0.34, 0.88) * 0.5 + solid.wheel(wheel, 0.34, 0.88).mean(0) * 0.5,
                np.full(3, 0.45) * solid.side_light,
            )
        finish(canvas, rng, sprite, 'car', self.distance)


@dataclass(frozen=True)
class Bus:
    """A town bus."""

    pose: Pose
    paint_color: np.ndarray
    trim: np.ndarray

    @classmethod
    def draw(cls, rng: Generator, pose: Pose) -> 'Bus':
        """A bus in any livery."""
        return cls(pose, pick_color(rng, LIVERIES), pick_color(rng, LIVERIES))

    @property
    def distance(self) -> float:
        return self.pose.nearest(4.5)

    def shadow(self, light: Light) -> np.ndarray:
        base = footprint(self.pose, 9.0, 1.2)
        return np.concatenate(
            [base, base - 2.9 / max(float(light.sun[1]), 0.25) * light.sun * (1, 0, 1)]
        )

    def contact(self) -> np.ndarray:
        return footprint(self.pose, 9.0, 1.2)

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        profile = np.array(
            ((-4.5, 0.35), (-4.5, 2.95), (-4.3, 3.1), (4.3, 3.1), (4.55, 2.8), (4.6, 0.35))
        )
        solid = Solid(canvas.camera, canvas.light, self.pose, profile, np.full(6, 1.25))
        ground = footprint(self.pose, 9.0, 1.25)
        sprite = Sprite(
            canvas.camera, np.concatenate([solid.hull(), canvas.camera.project(ground)])
        )
        if not sprite.visible:
            return
        paint, glass = self.paint_color, GLASS + canvas.light.horizon * 0.22
        dark = np.array((0.07, 0.07, 0.08))
        for index, face, lit in solid.strips():
            sprite.polygon(face, paint * lit)
            if index in (0, 4):
                end = -4.5 if index == 0 else 4.6
                low = 1.3 if index == 4 else 1.7
                across = np.array((-1.1, 1.1, 1.1, -1.1))
                screen = solid.pixels(np.full(4, end), np.array((low, low, 2.6, 2.6)), across)
                sprite.polygon(screen, glass * lit.clip(0.5))
                lamp = (0.8, 0.1, 0.08) if index == 0 else (0.95, 0.94, 0.86)
                for sign in (-0.95, 0.95):
                    spot = solid.pixels(np.array((end,)), np.array((0.75,)), sign)[0]
                    size = canvas.camera.scale(self.pose.z) * 0.14
                    sprite.ellipse(spot[0], spot[1], size, size, np.array(lamp))
            if index == 4:  # the slanted front top
                continue
        sprite.polygon(solid.side_outline(), paint * solid.side_light)
        sprite.polygon(solid.side_quad(-4.5, 4.55, 0.75, 1.05, 1.25), self.trim * solid.side_light)
        for start in np.arange(-4.2, 3.4, 1.3):
            sprite.polygon(
                solid.side_quad(start, start + 1.1, 1.45, 2.5, 1.25),
                glass * solid.side_light.clip(0.5),
            )
        sprite.polygon(solid.side_quad(3.5, 4.3, 0.5, 2.5, 1.25), glass * 0.9)
        for wheel in (-2.7, 2.5):
            sprite.polygon(solid.wheel(wheel, 0.5, 1.26), dark)
        finish(canvas, rng, sprite, 'bus', self.distance)


def finish(canvas: Canvas, rng: Generator, sprite: Sprite, name: str, distance: float) -> None:
    """Add a little reflection and dirt, then put the object into the picture."""
    color, alpha = sprite.finish()
    color = (
        color
        * (1 + 0.07 * fractal_noise(rng, *alpha.shape, max(4.0, alpha.shape[0] / 6), 1))[..., None]
    )
    instance = canvas.new_instance(IDS[name])
    canvas.paint(sprite.top, sprite.left, color, alpha, IDS[name], distance, instance)
