"""mmdet's detectors around an encoder that says what its maps are."""

from mmdet_seg.detectors.build import build_detector

__all__ = ['build_detector']
