"""Operators, one door each; callers import them from here and know no backend."""

from mmdet_seg.ops.ms_deform_attn import ms_deform_attn

__all__ = ['ms_deform_attn']
