"""Segmentors."""

from mmdet_seg.segmentors.encoder_decoder import EncoderDecoder

__all__ = ['EncoderDecoder']
