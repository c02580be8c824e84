"""What stands where: four kinds of place, each a plan of the ground and things put on it in metres.

- street: a road away from the camera between sidewalks, with houses or a park on either side
- square: a road across the view in front of a row of houses
- country: meadows with a road, fences, cattle, woods and mountains
- shore: water beyond a promenade or a meadow, with boats and a far bank
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.random import Generator

from mmdet_seg.datasets.scene_backdrop import paint_mountains, paint_skyline, paint_treeline
from mmdet_seg.datasets.scene_boats import Boat
from mmdet_seg.datasets.scene_buildings import Building, make_facade
from mmdet_seg.datasets.scene_camera import Camera, Light
from mmdet_seg.datasets.scene_canvas import Canvas
from mmdet_seg.datasets.scene_figures import Cow, Person
from mmdet_seg.datasets.scene_fixtures import Fence, Lamp
from mmdet_seg.datasets.scene_ground import Band, GroundPlan, Strip
from mmdet_seg.datasets.scene_plants import Shrub, Tree
from mmdet_seg.datasets.scene_vehicles import Bus, Car, Pose


class SceneObject(Protocol):
    """Something that stands on the ground."""

    @property
    def distance(self) -> float:
        """Metres from the camera, for painter's order."""

    def shadow(self, light: Light) -> np.ndarray | None:
        """Ground points (N, 3) whose hull is the cast shadow."""

    def contact(self) -> np.ndarray | None:
        """Ground points (N, 3) whose hull is dark because the object stands on it."""

    def paint(self, canvas: Canvas, rng: Generator) -> None:
        """Put the object into the picture."""


@dataclass
class Layout:
    """A place: everything that is needed to paint it."""

    kind: str
    camera: Camera
    ground: GroundPlan
    backdrop: list[Callable[[Canvas, Generator], None]] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    objects: list[SceneObject] = field(default_factory=list)


class _Planner:
    """Draws places; holds what every kind of place needs."""

    def __init__(self, rng: Generator, light: Light, height: int, width: int) -> None:
        self.rng, self.light, self.height, self.width = rng, light, height, width

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def camera(self, elevation: tuple[float, float], horizon: tuple[float, float]) -> Camera:
        rng = self.rng
        return Camera(
            height=self.height,
            width=self.width,
            focal=float(max(self.height, self.width) * rng.uniform(0.8, 1.15)),
            center=float(self.width * rng.uniform(0.28, 0.72)),
            horizon=float(self.height * rng.uniform(*horizon)),
            elevation=float(rng.uniform(*elevation)),
        )

    def depth(self, near: float, far: float) -> float:
        """A distance; near ones are as likely per octave as far ones."""
        return float(np.exp(self.rng.uniform(np.log(near), np.log(far))))

    def across(self, camera: Camera, z: float, margin: float = 0.04) -> float:
        """An X within the view."""
        low, high = camera.half_view(z)
        pad = margin * (high - low)
        return float(self.rng.uniform(low + pad, high - pad))

    def horizon_filling(self, mountains: float, wood: float, town: float) -> list[Callable]:
        """What closes the view, each with its own chance."""
        parts: list[Callable] = []
        if self.chance(mountains):
            parts.append(paint_mountains)
        if self.chance(town):
            parts.append(paint_skyline)
        if self.chance(wood):
            share = float(self.rng.uniform(0.35, 1.3))
            parts.append(lambda canvas, rng: paint_treeline(canvas, rng, share))
        return parts

    def house(self, left: float, right: float, near: float, deep: float, low: bool) -> Building:
        rng = self.rng
        storeys = rng.integers(1, 4) if low else rng.integers(2, 7)
        facade = make_facade(rng, self.light)
        height = facade.storey * float(storeys) + 0.4
        ridge = float(rng.uniform(1.5, 3.2)) if storeys <= 3 and self.chance(0.6) else 0.0
        return Building(left, right, near, near + deep, height, ridge, facade)

    def vehicle(self, pose: Pose, bus: float) -> SceneObject:
        return Bus.draw(self.rng, pose) if self.chance(bus) else Car.draw(self.rng, pose)

    def walkers(
        self, layout: Layout, x: tuple[float, float], z: tuple[float, float], most: int
    ) -> None:
        """People between two X, alone and in groups; far away sometimes a crowd."""
        for _ in range(int(self.rng.integers(0, most + 1))):
            at = self.depth(*z)
            low, high = layout.camera.half_view(at)
            low, high = max(low, x[0]), min(high, x[1])
            if high <= low:
                continue
            where = float(self.rng.uniform(low, high))
            if at > 6 and self.chance(0.12):
                layout.objects.append(
                    Person.draw(self.rng, where, at, crowd=int(self.rng.integers(5, 10)))
                )
                continue
            for index in range(1 + int(self.chance(0.3)) + int(self.chance(0.1))):
                layout.objects.append(
                    Person.draw(self.rng, where + 0.55 * index, at + self.rng.uniform(0, 0.4))
                )

    def street(self) -> Layout:
        rng = self.rng
        camera = self.camera((1.5, 3.6), (0.36, 0.5))
        half = float(rng.uniform(3.0, 4.6))
        pavement = float(rng.uniform(1.8, 3.6))
        middle = float(rng.uniform(-4.0, 4.0))
        plan = GroundPlan('grass' if self.chance(0.6) else 'sidewalk')
        plan.parts = [
            Strip('sidewalk', middle, half + pavement),
            Strip('road', middle, half, marked=self.chance(0.8)),
        ]
        layout = Layout('street', camera, plan, self.horizon_filling(0.55, 0.4, 0.12))
        for side in (-1, 1):
            edge = middle + side * (half + pavement)
            built = self.chance(0.72)
            if built:
                self._street_houses(layout, side, edge + side * rng.uniform(0.3, 5.0))
            else:
                self._park(layout, side, edge)
            for z in np.arange(rng.uniform(6, 12), 45, rng.uniform(9, 16)):
                spot = edge - side * 0.5
                if self.chance(0.3):
                    layout.objects.append(Tree.draw(rng, spot, float(z), 4.0, 7.5))
                elif self.chance(0.3):
                    layout.objects.append(Lamp(spot, float(z), -side * 1.2))
            if self.chance(0.4):
                for z in np.arange(rng.uniform(4, 8), 25, rng.uniform(3, 6)):
                    layout.objects.append(Shrub.draw(rng, edge + side * 0.3, float(z)))
            inner = middle + side * (half + 0.3)
            self.walkers(layout, (min(inner, edge), max(inner, edge)), (3.2, 8.5), 4)
            self._lane(layout, side, middle, half)
        if self.chance(0.35):
            self.walkers(layout, (middle - half, middle + half), (4, 8), 2)
        return layout

    def _street_houses(self, layout: Layout, side: int, front: float) -> None:
        rng = self.rng
        z = float(rng.uniform(-2, 8))
        low = self.chance(0.4)
        while z < 60:
            deep, wide = float(rng.uniform(8, 18)), float(rng.uniform(8, 14))
            near = max(z, 1.5)
            left, right = (front, front + wide) if side > 0 else (front - wide, front)
            if left * right > 0 and z + deep > near + 2:
                layout.buildings.append(self.house(left, right, near, z + deep - near, low))
            z += deep + (float(rng.uniform(1, 6)) if self.chance(0.35) else 0.0)

    def _park(self, layout: Layout, side: int, edge: float) -> None:
        rng = self.rng
        if self.chance(0.6):
            near = float(rng.uniform(2.5, 6))
            layout.objects.append(
                Fence.draw(
                    rng, (edge + side * 0.4, near), (edge + side * 0.4, near + rng.uniform(12, 25))
                )
            )
        for _ in range(int(rng.integers(1, 5))):
            z = self.depth(10, 40)
            layout.objects.append(Tree.draw(rng, edge + side * rng.uniform(2, 14), z))
        for _ in range(int(rng.integers(1, 5))):
            layout.objects.append(
                Shrub.draw(rng, edge + side * rng.uniform(1, 6), self.depth(5, 25))
            )

    def _lane(self, layout: Layout, side: int, middle: float, half: float) -> None:
        """Traffic on one side of a road that leads away: parked at the kerb and driving."""
        rng = self.rng
        yaw = 0.0 if side > 0 else np.pi
        z = float(rng.uniform(3.5, 9))
        parked = self.chance(0.5)
        x = middle + side * (half - 1.05 if parked else half * 0.5)
        while z < 30:
            if self.chance(0.8):
                pose = Pose(x + rng.uniform(-0.15, 0.15), z + 2, yaw + rng.uniform(-0.04, 0.04))
                vehicle = self.vehicle(pose, 0.06 if parked else 0.3)
                if isinstance(vehicle, Bus):
                    z = max(z, 4.5)
                    vehicle = Bus(Pose(x, z + 4.5, yaw), vehicle.paint_color, vehicle.trim)
                    z += 6
                layout.objects.append(vehicle)
            z += float(rng.uniform(5.5, 8 if parked else 18))

    def square(self) -> Layout:
        rng = self.rng
        camera = self.camera((1.7, 4.0), (0.3, 0.48))
        near = float(rng.uniform(3.5, 6))
        wide = float(rng.uniform(5.5, 7))
        far = near + wide
        pavement = float(rng.uniform(1.8, 3.5))
        houses = far + pavement + (float(rng.uniform(1, 3)) if self.chance(0.4) else 0.3)
        plan = GroundPlan('sidewalk' if self.chance(0.55) else 'grass')
        plan.parts = [Band('sidewalk', far, far + pavement), Band('road', near, far)]
        if plan.base == 'grass':
            plan.parts.insert(0, Band('sidewalk', near - 1.5, near))
        layout = Layout('square', camera, plan, self.horizon_filling(0.45, 0.4, 0.1))
        low, high = camera.half_view(houses)
        x = low - float(rng.uniform(0, 6))
        low_houses = self.chance(0.5)
        while x < high:
            width = float(rng.uniform(7, 15))
            if self.chance(0.8):
                deep = houses + (float(rng.uniform(0, 2)) if self.chance(0.4) else 0.0)
                layout.buildings.append(self.house(x, x + width, deep, 9.0, low_houses))
            else:
                for _ in range(int(rng.integers(1, 4))):
                    layout.objects.append(
                        Tree.draw(rng, float(rng.uniform(x, x + width)), houses + 4)
                    )
            x += width + (float(rng.uniform(1, 5)) if self.chance(0.4) else 0.0)
        for lane, yaw in ((near + 0.27 * wide, -np.pi / 2), (near + 0.73 * wide, np.pi / 2)):
            low, high = camera.half_view(lane)
            x = low + float(rng.uniform(-2, 5))
            while x < high + 2:
                if self.chance(0.5):
                    vehicle = self.vehicle(Pose(x, lane, yaw + rng.uniform(-0.08, 0.08)), 0.3)
                    if isinstance(vehicle, Bus):
                        x += 4
                        vehicle = Bus(Pose(x, lane, yaw), vehicle.paint_color, vehicle.trim)
                        x += 3
                    layout.objects.append(vehicle)
                x += float(rng.uniform(5, 9))
        self.walkers(layout, (-50, 50), (far + 0.5, houses - 0.3), 5)
        self.walkers(layout, (-50, 50), (near * 0.75, near), 2)
        for _ in range(int(rng.integers(0, 5))):
            z = float(rng.uniform(far + 0.6, far + 1.2))
            layout.objects.append(Tree.draw(rng, self.across(camera, z), z, 3.5, 6.5))
        for _ in range(int(rng.integers(0, 4))):
            z = houses - 0.6 if self.chance(0.6) else near * 0.8
            layout.objects.append(
                Shrub.draw(rng, self.across(camera, z), z, float(rng.uniform(1.2, 4.0)))
            )
        if self.chance(0.25):
            z = houses - 0.8
            x = self.across(camera, z)
            layout.objects.append(Fence.draw(rng, (x, z), (x + rng.uniform(6, 14), z)))
        for _ in range(int(rng.integers(0, 3))):
            layout.objects.append(Lamp(self.across(camera, far), far + 0.4, 1.0))
        return layout

    def country(self) -> Layout:
        rng = self.rng
        camera = self.camera((1.8, 5.0), (0.32, 0.52))
        plan = GroundPlan('grass')
        if self.chance(0.25):
            near = float(rng.uniform(13, 24))
            plan.parts.append(Band('water', near, near * rng.uniform(2.0, 5.0), wander=0.18))
        x, half = float(rng.uniform(-9, 9)), float(rng.uniform(2.2, 3.6))
        slope, bend = float(rng.uniform(-0.35, 0.35)), float(rng.uniform(-0.006, 0.006))
        road = self.chance(0.55)
        if road:
            plan.parts.append(Strip('road', x, half, slope, bend, marked=self.chance(0.6)))
        layout = Layout('country', camera, plan, self.horizon_filling(0.85, 0.45, 0.06))
        if road:
            for _ in range(int(rng.integers(0, 4))):
                z = self.depth(7, 20)
                lane = float(rng.choice((-1, 1)))
                heading = np.arctan(slope + 2 * bend * z) + (0 if lane > 0 else np.pi)
                at = x + slope * z + bend * z * z + lane * half * 0.5
                layout.objects.append(self.vehicle(Pose(at, z, heading), 0.25))
        for _ in range(int(rng.integers(0, 3))):
            z = float(rng.uniform(14, 30))
            left = self.across(camera, z)
            width = float(rng.uniform(7, 13))
            layout.buildings.append(self.house(left, left + width, z, 8.0, True))
        herd = int(rng.integers(3, 8)) if self.chance(0.75) else 0
        if herd:
            z0 = self.depth(6.5, 13)
            x0 = self.across(camera, z0, 0.25)
            for _ in range(herd):
                z = max(5.0, z0 + float(rng.normal(0, 2.0)))
                layout.objects.append(Cow.draw(rng, x0 + float(rng.normal(0, 3.0)), z))
        for _ in range(int(rng.integers(1, 6))):
            z = self.depth(12, 50)
            layout.objects.append(Tree.draw(rng, self.across(camera, z, -0.1), z))
        for _ in range(int(rng.integers(1, 7))):
            z = self.depth(5, 16)
            layout.objects.append(
                Shrub.draw(rng, self.across(camera, z), z, float(rng.uniform(1.2, 4)))
            )
        if self.chance(0.7):
            self._meadow_fence(layout)
        self.walkers(layout, (-50, 50), (4, 9), 3)
        return layout

    def _meadow_fence(self, layout: Layout) -> None:
        """A fence across the view, or away from the camera along one side."""
        rng = self.rng
        if self.chance(0.6):
            z = self.depth(4.5, 9)
            low, high = layout.camera.half_view(z)
            start = low - 1 if self.chance(0.5) else float(rng.uniform(low, (low + high) / 2))
            end = high + 1 if self.chance(0.5) else float(rng.uniform((low + high) / 2, high))
            tilt = float(rng.uniform(-0.15, 0.15))
            layout.objects.append(Fence.draw(rng, (start, z + tilt * start), (end, z + tilt * end)))
        else:
            side = float(rng.choice((-1, 1)))
            x = side * float(rng.uniform(1.5, 4))
            layout.objects.append(
                Fence.draw(
                    rng, (x, 3.0), (x + side * rng.uniform(0, 5), float(rng.uniform(15, 30)))
                )
            )

    def shore(self) -> Layout:
        rng = self.rng
        camera = self.camera((2.2, 5.5), (0.3, 0.48))
        near = float(rng.uniform(1.25, 2.2)) * camera.ground_distance(self.height)
        base = 'sidewalk' if self.chance(0.5) else 'grass'
        plan = GroundPlan(base)
        far = float(rng.uniform(60, 150)) if self.chance(0.35) else 4000.0
        plan.parts = [Band('water', near, far, wander=0.0 if base == 'sidewalk' else 0.2)]
        if far < 4000 and base == 'sidewalk':
            plan.parts.insert(0, Band('grass', far * 0.9, 1e5))
        layout = Layout('shore', camera, plan, self.horizon_filling(0.75, 0.35, 0.25))
        for _ in range(int(rng.integers(2, 7))):
            z = self.depth(near * 1.25, max(near * 2.0, 15))
            yaw = (
                float(rng.uniform(0, 2 * np.pi))
                if self.chance(0.4)
                else float(rng.choice((-1.3, 1.3)))
            )
            layout.objects.append(Boat.draw(rng, Pose(self.across(camera, z), z, yaw)))
        edge = near * (0.97 if base == 'sidewalk' else 0.75)
        if self.chance(0.4):
            low, high = camera.half_view(edge)
            start = low - 1 if self.chance(0.6) else float(rng.uniform(low, high))
            layout.objects.append(
                Fence.draw(rng, (start, edge), (start + rng.uniform(4, 14), edge))
            )
        self.walkers(layout, (-50, 50), (min(4.0, edge * 0.7), edge * 0.95), 4)
        for _ in range(int(rng.integers(0, 3)) if edge > 8 else int(self.chance(0.25))):
            z = max(6.0, float(rng.uniform(0.75, 0.95)) * edge)
            layout.objects.append(Tree.draw(rng, self.across(camera, z, -0.1), z, 4.0, 7.0))
        for _ in range(int(rng.integers(0, 4))):
            z = float(rng.uniform(0.7, 0.95)) * edge
            layout.objects.append(
                Shrub.draw(rng, self.across(camera, z), z, float(rng.uniform(1.0, 3.0)))
            )
        if base == 'grass' and edge > 8 and self.chance(0.75):
            z = max(7.0, edge * 0.8)
            x = self.across(camera, z)
            layout.objects.extend(
                Cow.draw(rng, x + 2.4 * i, z + rng.uniform(-1, 1))
                for i in range(int(rng.integers(1, 4)))
            )
        return layout


_KINDS = ('street', 'square', 'country', 'shore')
_KIND_SHARES = (0.27, 0.25, 0.25, 0.23)


def make_layout(rng: Generator, light: Light, height: int, width: int) -> Layout:
    """Draw a place for a picture of ``height`` x ``width`` pixels."""
    kind = str(rng.choice(_KINDS, p=_KIND_SHARES))
    return getattr(_Planner(rng, light, height, width), kind)()
