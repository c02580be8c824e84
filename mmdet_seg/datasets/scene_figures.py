"""People and cows: flat figures that stand upright and face any way.

Shapes::

    figure  (N, 2)  metres to the right of the feet and above the ground
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_camera import Camera, Light
from mmdet_seg.datasets.scene_canvas import Canvas, Sprite
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.textures import fractal_noise, pick_color

_SKIN = np.array([(0.86, 0.67, 0.55), (0.72, 0.52, 0.40), (0.50, 0.34, 0.25), (0.34, 0.23, 0.17)])
_HAIR = np.array([(0.10, 0.08, 0.07), (0.26, 0.17, 0.10), (0.55, 0.42, 0.24), (0.55, 0.54, 0.52)])
_CLOTHES = np.array(
    [
        (0.12, 0.12, 0.14),
        (0.82, 0.80, 0.78),
        (0.16, 0.22, 0.48),
        (0.70, 0.12, 0.18),
        (0.28, 0.40, 0.24),
        (0.46, 0.45, 0.46),
        (0.85, 0.66, 0.20),
        (0.66, 0.30, 0.52),
        (0.46, 0.26, 0.58),
        (0.85, 0.45, 0.50),
    ]
)
_HIDES = np.array([(0.12, 0.10, 0.10), (0.90, 0.87, 0.84), (0.24, 0.13, 0.09)])


class _Figure:
    """Draws figure coordinates into a sprite."""

    def __init__(
        self, camera: Camera, x: float, z: float, half_width: float, height: float
    ) -> None:
        self.scale = camera.scale(z)
        self.foot = camera.project(np.array([(x, 0.0, z)]))[0]
        self.sprite = Sprite(camera, self.at(np.array([(-half_width, 0.0), (half_width, height)])))

    def at(self, figure: np.ndarray) -> np.ndarray:
        """Figure coordinates to pixels (N, 2)."""
        return self.foot + np.asarray(figure, np.float64) * (self.scale, -self.scale)

    def limb(
        self, start: tuple, end: tuple, widths: tuple[float, float], color: np.ndarray
    ) -> None:
        """A tapered bar from start to end."""
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        across = np.array((a[1] - b[1], b[0] - a[0]))
        across /= max(np.linalg.norm(across), 1e-6)
        w0, w1 = widths[0] / 2, widths[1] / 2
        outline = np.array((a - across * w0, a + across * w0, b + across * w1, b - across * w1))
        self.sprite.polygon(self.at(outline), color)

    def shape(self, outline: tuple | np.ndarray, color: np.ndarray) -> None:
        """A filled polygon."""
        self.sprite.polygon(self.at(np.asarray(outline)), color)

    def ball(self, x: float, y: float, rx: float, ry: float, color: np.ndarray) -> None:
        """A filled ellipse."""
        px, py = self.at(np.array([(x, y)]))[0]
        self.sprite.ellipse(px, py, rx * self.scale, ry * self.scale, color)

    def paint(
        self, canvas: Canvas, rng: Generator, name: str, distance: float, instance: int
    ) -> None:
        """Round the figure with light from the sun's side and put it into the picture."""
        color, alpha = self.sprite.finish()
        light = canvas.light
        lit = [light.shade((side, 0.2, -0.6)) for side in (-0.8, 0.8)]
        t = np.linspace(0, 1, alpha.shape[1], dtype=np.float32)[None, :, None]
        color = color * (lit[0] * (1 - t) + lit[1] * t)
        color *= (1 + 0.12 * fractal_noise(rng, *alpha.shape, max(2.0, alpha.shape[0] / 14), 1))[
            ..., None
        ]
        sprite = self.sprite
        canvas.paint(sprite.top, sprite.left, color, alpha, IDS[name], distance, instance)


def _upright_shadow(
    x: float, z: float, half_width: float, height: float, light: Light
) -> np.ndarray:
    base = np.array([(x - half_width, 0, z), (x + half_width, 0, z)])
    reach = min(height / max(float(light.sun[1]), 0.25), 4 * height)
    return np.concatenate([base, base - reach * light.sun * (1, 0, 1)])


@dataclass(frozen=True)
class Person:
    """Someone standing or walking; ``crowd`` > 0 makes that many one instance, as in COCO."""

    x: float
    z: float
    height: float
    crowd: int = 0

    @classmethod
    def draw(cls, rng: Generator, x: float, z: float, crowd: int = 0) -> 'Person':
        """Someone of any age."""
        height = rng.uniform(1.05, 1.4) if rng.random() < 0.12 else rng.normal(1.72, 0.09)
        return cls(x, z, float(height), crowd)

    @property
    def distance(self) -> float:
        return self.z

    def shadow(self, light: Light) -> np.ndarray:
        return _upright_shadow(self.x, self.z, 0.2, self.height, light)

    def contact(self) -> np.ndarray:
        return np.array([(self.x + a, 0, self.z + b) for a in (-0.25, 0.25) for b in (-0.2, 0.2)])

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        instance = 0
        spots = [(0.0, 0.0)]
        if self.crowd:
            spots = sorted(
                (
                    (rng.uniform(-0.25, 0.25) * self.crowd, rng.uniform(0, 1.5))
                    for _ in range(self.crowd)
                ),
                key=lambda spot: -spot[1],
            )
        for dx, dz in spots:
            figure = _Figure(canvas.camera, self.x + dx, self.z + dz, 0.55, 1.06 * self.height)
            if not figure.sprite.visible:
                continue
            _draw_person(figure, rng, self.height)
            instance = instance or canvas.new_instance(IDS['person'], crowd=self.crowd > 0)
            figure.paint(canvas, rng, 'person', self.z + dz, instance)


def _draw_person(figure: _Figure, rng: Generator, height: float) -> None:
    """A body of 1.7 units, scaled to ``height``."""
    k = height / 1.7
    side = rng.choice((-1.0, 1.0))
    stride = rng.uniform(0.0, 0.26)
    stout = rng.uniform(0.9, 1.25)
    top, bottom = pick_color(rng, _CLOTHES), pick_color(rng, _CLOTHES)
    skin, hair = pick_color(rng, _SKIN), pick_color(rng, _HAIR)
    shoe = np.array((0.12, 0.11, 0.11))

    def p(x: float, y: float) -> tuple[float, float]:
        return side * x * k, y * k

    swing = stride * 0.9
    figure.limb(p(0.0, 1.36), p(0.1 + swing, 0.86), (0.13 * k, 0.09 * k), top * 0.8)
    skirt = rng.random() < 0.2
    for sign, tone in ((-1, 0.85), (1, 1.0)):
        foot = sign * stride
        figure.limb(
            p(sign * 0.05, 0.9),
            p(foot, 0.07),
            (0.2 * k * stout, 0.13 * k),
            (skin if skirt else bottom) * tone,
        )
        figure.shape(
            (p(foot - 0.08, 0.0), p(foot - 0.08, 0.09), p(foot + 0.08, 0.1), p(foot + 0.19, 0.0)),
            shoe,
        )
    if skirt:
        figure.shape((p(-0.15, 1.0), p(0.15, 1.0), p(0.27, 0.45), p(-0.27, 0.45)), bottom)
    w = 0.2 * stout
    coat = rng.uniform(0.75, 0.98)
    figure.shape(
        (
            p(-w, 1.38),
            p(-0.07, 1.46),
            p(0.07, 1.46),
            p(w, 1.38),
            p(w * 0.9, coat),
            p(-w * 0.9, coat),
        ),
        top,
    )
    hand = p(-0.16 - swing, 0.84)
    figure.limb(p(-w * 0.9, 1.36), hand, (0.13 * k, 0.09 * k), top * 0.9)
    figure.ball(hand[0], hand[1], 0.05 * k, 0.06 * k, skin)
    if rng.random() < 0.3:
        bag = pick_color(rng, _CLOTHES)
        figure.shape(
            (p(-w - 0.12, 1.35), p(-w + 0.04, 1.38), p(-w + 0.04, 0.98), p(-w - 0.12, 1.0)), bag
        )
    figure.ball(*p(0.0, 1.57), 0.105 * k, 0.135 * k, skin)
    figure.shape(
        (
            p(-0.12, 1.56),
            p(-0.11, 1.68),
            p(0.0, 1.73),
            p(0.11, 1.67),
            p(0.08, 1.61),
            p(-0.04, 1.62),
            p(-0.08, 1.45),
        ),
        hair,
    )


@dataclass(frozen=True)
class Cow:
    """A cow seen from the side, standing or grazing."""

    x: float
    z: float
    heading: float  # -1 looks left, 1 right; between them foreshortened
    grazing: bool

    @classmethod
    def draw(cls, rng: Generator, x: float, z: float) -> 'Cow':
        """A cow that looks either way."""
        heading = float(rng.choice((-1.0, 1.0)) * rng.uniform(0.55, 1.0))
        return cls(x, z, heading, bool(rng.random() < 0.5))

    @property
    def distance(self) -> float:
        return self.z

    def shadow(self, light: Light) -> np.ndarray:
        return _upright_shadow(self.x, self.z, 1.0 * abs(self.heading), 1.3, light)

    def contact(self) -> np.ndarray:
        half = 1.0 * abs(self.heading)
        return np.array([(self.x + a, 0, self.z + b) for a in (-half, half) for b in (-0.3, 0.3)])

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        figure = _Figure(canvas.camera, self.x, self.z, 1.75, 1.75)
        if not figure.sprite.visible:
            return
        hide, patch = pick_color(rng, _HIDES), pick_color(rng, _HIDES)

        def p(x: float, y: float) -> tuple[float, float]:
            return x * self.heading, y

        for x, tone in ((-0.72, 0.7), (0.62, 0.7), (-0.58, 0.95), (0.76, 0.95)):
            step = rng.uniform(-0.1, 0.1)
            figure.limb(p(x, 0.8), p(x + step, 0.0), (0.26, 0.13), hide * tone)
        body = np.array(
            (
                (-1.0, 1.25),
                (-0.95, 0.72),
                (-0.3, 0.58),
                (0.4, 0.6),
                (0.9, 0.75),
                (1.0, 1.15),
                (0.85, 1.38),
                (-0.8, 1.4),
            )
        )
        figure.shape([p(*point) for point in body], hide)
        if rng.random() < 0.75:
            for _ in range(4):
                x, y = rng.uniform(-0.7, 0.7), rng.uniform(0.85, 1.2)
                figure.ball(
                    *p(x, y),
                    rng.uniform(0.12, 0.3) * abs(self.heading),
                    rng.uniform(0.1, 0.2),
                    patch,
                )
        figure.limb(p(-1.0, 1.3), p(-1.12, 0.6), (0.08, 0.05), hide * 0.7)
        nose = (1.55, 0.3) if self.grazing else (1.62, 1.32)
        head = (1.35, 0.55) if self.grazing else (1.3, 1.5)
        figure.limb(p(0.8, 1.15), p(*head), (0.5, 0.3), hide * 0.95)
        figure.limb(p(*head), p(*nose), (0.3, 0.2), hide)
        figure.ball(*p(*nose), 0.1, 0.1, np.array((0.75, 0.6, 0.55)))
        ear = (head[0] - 0.06, head[1] + 0.13)
        figure.limb(p(*ear), p(ear[0] - 0.16, ear[1] + 0.05), (0.1, 0.06), hide * 0.8)
        figure.paint(canvas, rng, 'cow', self.z, canvas.new_instance(IDS['cow']))
