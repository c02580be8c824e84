"""COCO's panoptic maps without ``panopticapi``, which no package index has."""

from typing import Any

import numpy as np

from mmdet_seg.mmdet_door import LoadAnnotations, LoadPanopticAnnotations


class LoadPanoptic(LoadPanopticAnnotations):
    """mmdet's ``LoadPanopticAnnotations``; what it takes from ``panopticapi`` is one line.

    Args:
        kwargs: Of mmdet's ``LoadAnnotations``.
    """

    def __init__(self, **kwargs: Any) -> None:
        options = dict(with_bbox=True, with_label=True, with_mask=True, with_seg=True)
        LoadAnnotations.__init__(self, **{**options, **kwargs})

    @staticmethod
    def rgb2id(color: np.ndarray) -> np.ndarray:
        """Number of the segment that a colour stands for: (H, W, 3) uint8 -> (H, W) int64."""
        return color.astype(np.int64) @ np.array([1, 256, 256**2])
