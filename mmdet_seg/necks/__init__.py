"""Necks that OpenMMLab does not have."""

from mmdet_seg.necks.feature_pyramid import FeaturePyramid

__all__ = ['FeaturePyramid']
