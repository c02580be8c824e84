"""Heads that mmseg and mmdet do not have."""

from mmdet_seg.heads.linear_head import LinearHead
from mmdet_seg.heads.mask_transformer_head import MaskTransformerHead, PanopticMaskTransformerHead

__all__ = ['LinearHead', 'MaskTransformerHead', 'PanopticMaskTransformerHead']
