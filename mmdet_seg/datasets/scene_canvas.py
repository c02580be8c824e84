"""The picture while it is painted: colours, class labels and instance numbers stay in step.

Painter's order: what is painted later covers what is there. A pixel belongs to what covers at
least half of it, so that masks are exact for the visible part.

Shapes::

    H, W    the picture
    h, w    a patch of it
    color   (h, w, 3) float32 RGB, 0..1
    alpha   (h, w)    float32 coverage, 0..1
"""

import cv2
import numpy as np

from mmdet_seg.datasets.scene_camera import Camera, Light

_TURN = np.arange(16) * (np.pi / 8)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


class Canvas:
    """Picture, labels and instances of a scene under construction.

    Attributes:
        image: (H, W, 3) float32 RGB.
        label: (H, W) uint8, 0 = unlabelled, else a class number.
        owner: (H, W) int32, 0 = no instance, else the number of an instance.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        shape = (camera.height, camera.width)
        self.image = np.zeros((*shape, 3), np.float32)
        self.label = np.zeros(shape, np.uint8)
        self.owner = np.zeros(shape, np.int32)
        self.instances: list[tuple[int, bool]] = []  # class number, is a crowd

    def new_instance(self, class_id: int, crowd: bool = False) -> int:
        """Number for the next instance, from 1."""
        self.instances.append((class_id, crowd))
        return len(self.instances)

    def paint(
        self,
        top: int,
        left: int,
        color: np.ndarray,
        alpha: np.ndarray,
        class_id: int | np.ndarray,
        distance: float | np.ndarray = 0.0,
        instance: int = 0,
    ) -> None:
        """Cover a patch.

        Args:
            top: Row of the patch's upper edge; the patch may reach outside the picture.
            left: Column of its left edge.
            color: (h, w, 3), not multiplied by ``alpha``.
            alpha: (h, w).
            class_id: One class number, or (h, w) of them.
            distance: Metres, for haze: one number or (h, w).
            instance: Number from :meth:`new_instance`.
        """
        rows = slice(max(0, -top), min(alpha.shape[0], self.label.shape[0] - top))
        columns = slice(max(0, -left), min(alpha.shape[1], self.label.shape[1] - left))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        color, alpha = color[rows, columns], alpha[rows, columns]
        where = (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
        )
        if isinstance(distance, np.ndarray):
            veil = self.light.veil(distance[rows, columns])[..., None]
        else:
            veil = self.light.veil(distance)
        veil = np.asarray(veil, np.float32)
        color = color * (1 - veil) + self.light.horizon * veil
        picture = self.image[where]
        color -= picture
        color *= alpha[..., None]
        picture += color
        covered = alpha >= 0.5
        if isinstance(class_id, np.ndarray):
            class_id = class_id[rows, columns]
        np.copyto(self.label[where], class_id, where=covered, casting='unsafe')
        np.copyto(self.owner[where], instance, where=covered)

    def darken(self, coverage: np.ndarray, strength: float) -> None:
        """Take light away, as a shadow on the ground does; ``coverage`` is (H, W), 0..1."""
        self.image *= (1 - strength * coverage)[..., None]


class Sprite:
    """One object drawn from polygons on a sub-sampled patch, clipped to the picture.

    Args:
        camera: Gives the picture's size.
        corners: (N, 2) pixels; their bounding box must contain everything that is drawn.
    """

    def __init__(self, camera: Camera, corners: np.ndarray) -> None:
        low = np.floor(corners.min(0)).astype(int) - 1
        high = np.ceil(corners.max(0)).astype(int) + 1
        low = np.maximum(low, 0)
        high = np.minimum(high, (camera.width, camera.height))
        self.left, self.top = int(low[0]), int(low[1])
        self.width, self.height = (int(v) for v in high - low)
        self.visible = self.width > 0 and self.height > 0
        area = max(self.width, 1) * max(self.height, 1)
        self.factor = 4 if area < 4000 else 2
        if self.visible:
            shape = (self.height * self.factor, self.width * self.factor, 4)
            self._drawing = np.zeros(shape, np.uint8)

    def polygon(self, pixels: np.ndarray, color: np.ndarray) -> None:
        """Fill a polygon; ``pixels`` (N, 2) in the picture's coordinates, ``color`` (3,)."""
        if not self.visible:
            return
        local = (np.asarray(pixels) - (self.left, self.top)) * self.factor - 0.5
        points = np.clip(np.round(local * 16), -(2**19), 2**19).astype(np.int32)
        r, g, b = (min(max(float(v) * 255, 0.0), 255.0) for v in color)
        cv2.fillPoly(self._drawing, [points], (r, g, b, 255.0), cv2.LINE_8, shift=4)

    def ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, color: np.ndarray
    ) -> None:
        """Fill an upright ellipse around (x, y), in pixels."""
        self.polygon(_CIRCLE * (radius_x, radius_y) + (x, y), color)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Colour (h, w, 3) and coverage (h, w) at the picture's own resolution."""
        small = cv2.resize(
            self._drawing.astype(np.float32) / 255,
            (self.width, self.height),
            interpolation=cv2.INTER_AREA,
        )
        alpha = small[..., 3]
        return small[..., :3] / np.maximum(alpha, 1e-3)[..., None], alpha
