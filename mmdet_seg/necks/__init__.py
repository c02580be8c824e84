"""Necks that OpenMMLab does not have."""

from mmdet_seg.necks.feature_pyramid import FeaturePyramid
from mmdet_seg.necks.pyramid_pooling import PyramidPooling
from mmdet_seg.necks.simple_pyramid import SimplePyramid
from mmdet_seg.necks.vit_adapter import ViTAdapter

__all__ = ['FeaturePyramid', 'PyramidPooling', 'SimplePyramid', 'ViTAdapter']
