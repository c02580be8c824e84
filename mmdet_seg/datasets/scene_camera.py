"""Where a scene is seen from, and the light in it.

World coordinates are metres: X right, Y up from the ground, Z forward from the camera; the ground
is the plane Y = 0. Pixel coordinates are (x, y) from the upper left corner; pixel (i, j) has its
centre at (j + 0.5, i + 0.5).

Shapes::

    points  (N, 3)  world, metres
    pixels  (N, 2)  x, y
    color   (..., 3) RGB, 0..1
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

NEAREST = 0.6  # metres; points closer than this are moved here before they are projected


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with a level optical axis; a shifted centre stands for pitch and yaw.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        focal: Focal length in pixels.
        center: Pixel column of the vanishing point straight ahead.
        horizon: Pixel row of the horizon.
        elevation: Metres above the ground.
    """

    height: int
    width: int
    focal: float
    center: float
    horizon: float
    elevation: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) to pixels (N, 2)."""
        scale = self.focal / np.maximum(points[:, 2], NEAREST)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.center + points[:, 0] * scale
        pixels[:, 1] = self.horizon + (self.elevation - points[:, 1]) * scale
        return pixels

    def scale(self, distance: float) -> float:
        """Pixels per metre at a distance."""
        return self.focal / max(distance, NEAREST)

    def ground_distance(self, row: float) -> float:
        """Distance at which the ground appears in a pixel row below the horizon."""
        return self.focal * self.elevation / max(row - self.horizon, 1e-3)

    def half_view(self, distance: float) -> tuple[float, float]:
        """The X that the left and right image borders see at a distance."""
        scale = self.scale(distance)
        return -self.center / scale, (self.width - self.center) / scale


@dataclass(frozen=True)
class Light:
    """Sun, sky and air.

    Args:
        name: Kind of light: day, golden, overcast, hazy or dusk.
        sun: Unit vector towards the sun.
        sun_color: Strength of direct light.
        ambient: Strength of the light from everywhere.
        zenith: Colour of the sky overhead.
        horizon: Colour of the sky at the horizon, and of haze.
        visibility: Distance in metres at which haze hides 63 % of a surface.
        shadow: How much of the light a cast shadow takes, 0..1.
        clouds: Cloud cover, 0..1.
    """

    name: str
    sun: np.ndarray = field(repr=False)
    sun_color: np.ndarray = field(repr=False)
    ambient: np.ndarray = field(repr=False)
    zenith: np.ndarray = field(repr=False)
    horizon: np.ndarray = field(repr=False)
    visibility: float
    shadow: float
    clouds: float

    def shade(self, normal: tuple[float, float, float]) -> np.ndarray:
        """Light that a surface with this outward normal receives: (3,) float32."""
        n = np.asarray(normal, np.float32)
        facing = max(0.0, float(n @ self.sun) / float(np.linalg.norm(n)))
        return (self.ambient * (0.85 + 0.15 * n[1]) + self.sun_color * facing).astype(np.float32)

    def veil(self, distance: np.ndarray | float) -> np.ndarray | float:
        """Share of haze in what is seen at a distance, 0..1."""
        return 1 - np.exp(-distance / self.visibility)


# sun strength, ambient, zenith, horizon, elevation range in degrees, visibility range in metres,
# shadow
_KINDS = {
    'day': (
        (0.72, 0.68, 0.60),
        (0.46, 0.50, 0.57),
        (0.22, 0.42, 0.78),
        (0.68, 0.80, 0.92),
        (25, 60),
        (250, 900),
        0.5,
    ),
    'golden': (
        (0.78, 0.54, 0.30),
        (0.42, 0.40, 0.45),
        (0.34, 0.44, 0.68),
        (0.95, 0.74, 0.52),
        (7, 18),
        (150, 500),
        0.45,
    ),
    'overcast': (
        (0.08, 0.08, 0.08),
        (0.76, 0.78, 0.80),
        (0.58, 0.62, 0.67),
        (0.80, 0.82, 0.84),
        (40, 60),
        (120, 500),
        0.12,
    ),
    'hazy': (
        (0.38, 0.36, 0.31),
        (0.60, 0.60, 0.60),
        (0.55, 0.64, 0.74),
        (0.84, 0.84, 0.82),
        (15, 40),
        (80, 180),
        0.3,
    ),
    'dusk': (
        (0.12, 0.09, 0.08),
        (0.40, 0.41, 0.48),
        (0.16, 0.20, 0.40),
        (0.62, 0.48, 0.50),
        (2, 6),
        (200, 600),
        0.1,
    ),
}
_KIND_SHARES = (0.44, 0.2, 0.2, 0.09, 0.07)


def make_light(rng: Generator) -> Light:
    """Draw a time of day and weather."""
    name = str(rng.choice(list(_KINDS), p=_KIND_SHARES))
    sun, ambient, zenith, horizon, elevations, visibilities, shadow = _KINDS[name]
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(*elevations))
    level = np.cos(elevation)
    direction = (np.sin(azimuth) * level, np.sin(elevation), np.cos(azimuth) * level)
    low, high = np.log(visibilities)
    vary = rng.uniform(0.9, 1.1, (4, 3))
    return Light(
        name=name,
        sun=np.array(direction, np.float32),
        sun_color=(np.array(sun) * vary[0]).astype(np.float32),
        ambient=(np.array(ambient) * vary[1]).astype(np.float32),
        zenith=np.clip(np.array(zenith) * vary[2], 0, 1).astype(np.float32),
        horizon=np.clip(np.array(horizon) * vary[3], 0, 1).astype(np.float32),
        visibility=float(np.exp(rng.uniform(low, high))),
        shadow=shadow,
        clouds=1.0 if name == 'overcast' else float(rng.beta(1.2, 1.8)),
    )
