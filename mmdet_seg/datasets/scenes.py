"""Photograph-like scenes with exact masks, made from a number.

A scene is drawn as a camera would see it: a plan of a place in metres (:mod:`scene_layout`), one
light, painter's order from the sky to what is nearest, then lens and sensor. Labels and instances
are painted together with the colours, so they are exact for what is visible.

Shapes::

    H, W    the picture
    C       len(CLASSES)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mmdet_seg.datasets.scene_backdrop import paint_sky
from mmdet_seg.datasets.scene_buildings import paint_building
from mmdet_seg.datasets.scene_camera import make_light
from mmdet_seg.datasets.scene_canvas import Canvas
from mmdet_seg.datasets.scene_classes import CLASSES, IDS, PALETTE, THING_CLASSES, UNLABELLED
from mmdet_seg.datasets.scene_ground import paint_ground
from mmdet_seg.datasets.scene_layout import Layout, make_layout
from mmdet_seg.datasets.scene_sensor import photograph

__all__ = ['CLASSES', 'PALETTE', 'THING_CLASSES', 'Instance', 'Scene', 'make_scene']

GENERATOR_VERSION = 1  # raise with every change that changes a pixel
SMALLEST_SIDE = 64
_SMALLEST_INSTANCE = 12  # visible pixels; less is left unlabelled


@dataclass(frozen=True)
class Instance:
    """One countable object.

    Args:
        class_id: Value in the mask, from 1.
        mask: (H, W) bool, the visible part.
        box: x0, y0, x1, y1 in pixels; the mask lies in columns x0..x1-1 and rows y0..y1-1.
        crowd: Several objects of the class that are not told apart, as COCO's ``iscrowd``.
    """

    class_id: int
    mask: np.ndarray
    box: tuple[int, int, int, int]
    crowd: bool


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it.

    Args:
        image: (H, W, 3) uint8 RGB, before JPEG.
        mask: (H, W) uint8, 0 = unlabelled, 1..C = class, as in ADE20K's annotation files.
        instances: Objects of :data:`THING_CLASSES`, in painting order.
        kind: Kind of place: street, square, country or shore.
        light: Kind of light: day, golden, overcast, hazy or dusk.
        jpeg_quality: What the picture is to be stored with.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: list[Instance]
    kind: str
    light: str
    jpeg_quality: int


def make_scene(seed: int | Sequence[int], size: tuple[int, int] = (256, 320)) -> Scene:
    """Draw the scene that belongs to a seed.

    Args:
        seed: One number or several; the same ones give the same scene, bit for bit, on one machine.
        size: Height and width in pixels.

    Raises:
        ValueError: A side is shorter than 64 pixels.
    """
    height, width = size
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f'size={height}x{width} is too small for a scene; each side needs {SMALLEST_SIDE} '
            'pixels or more.'
        )
    rng = np.random.default_rng(seed)
    light = make_light(rng)
    layout = make_layout(rng, light, height, width)
    canvas = Canvas(layout.camera, light)
    paint_sky(canvas, rng)
    for paint in layout.backdrop:
        paint(canvas, rng)
    paint_ground(canvas, rng, layout.ground)
    _paint_shadows(canvas, layout)
    for building in sorted(layout.buildings, key=lambda b: -b.near):
        paint_building(canvas, rng, building)
    for thing in sorted(layout.objects, key=lambda o: -o.distance):
        thing.paint(canvas, rng)
    instances = _collect(canvas)
    return Scene(
        image=photograph(rng, canvas.image),
        mask=canvas.label,
        instances=instances,
        kind=layout.kind,
        light=light.name,
        jpeg_quality=int(rng.integers(78, 96)),
    )


def _paint_shadows(canvas: Canvas, layout: Layout) -> None:
    """Darken the ground where the sun does not reach it, and below what stands on it."""
    camera, light = canvas.camera, canvas.light
    cast = np.zeros(canvas.label.shape, np.uint8)
    contact = np.zeros_like(cast)
    outlines = [(cast, building.shadow(light)) for building in layout.buildings]
    for thing in layout.objects:
        outlines += [(cast, thing.shadow(light)), (contact, thing.contact())]
    for target, points in outlines:
        if points is None:
            continue
        points = np.where([False, False, True], np.maximum(points, 1.0), points)
        pixels = np.clip(np.round(camera.project(points) * 16), -(2**19), 2**19).astype(np.int32)
        cv2.fillConvexPoly(target, cv2.convexHull(pixels), 255, cv2.LINE_8, shift=4)
    water = canvas.label == IDS['water']
    ground = np.isin(canvas.label, (IDS['grass'], IDS['road'], IDS['sidewalk']))
    soft = cv2.GaussianBlur(cast, (0, 0), 1.2).astype(np.float32) / 255
    canvas.darken(soft * ground, light.shadow)
    soft = cv2.GaussianBlur(contact, (0, 0), 2.0).astype(np.float32) / 255
    canvas.darken(soft * (ground | water), 0.4)


def _collect(canvas: Canvas) -> list[Instance]:
    """Instances from their visible pixels; slivers become unlabelled."""
    areas = np.bincount(canvas.owner.ravel(), minlength=len(canvas.instances) + 1)
    found = []
    for number, (class_id, crowd) in enumerate(canvas.instances, start=1):
        if areas[number] == 0:
            continue
        mask = canvas.owner == number
        if areas[number] < _SMALLEST_INSTANCE:
            canvas.label[mask] = UNLABELLED
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        found.append(Instance(class_id, mask, box, crowd))
    return found
