"""Heads that mmseg and mmdet do not have."""

from mmdet_seg.heads.linear_head import LinearHead

__all__ = ['LinearHead']
