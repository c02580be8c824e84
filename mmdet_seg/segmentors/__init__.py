"""Segmentors."""

from mmdet_seg.segmentors.data_preprocessor import SegDataPreProcessor
from mmdet_seg.segmentors.encoder_decoder import EncoderDecoder

__all__ = ['EncoderDecoder', 'SegDataPreProcessor']
