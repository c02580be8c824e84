"""The encoder and its checkpoints."""

from mmdet_seg.backbones.intern_vit import FeatureSpec, InternViT
from mmdet_seg.backbones.lora import merge_lora
from mmdet_seg.backbones.split_vit import OpenTokens, SplitInternViT
from mmdet_seg.backbones.variants import ARCHS, Arch, get_arch

__all__ = [
    'ARCHS',
    'Arch',
    'FeatureSpec',
    'InternViT',
    'OpenTokens',
    'SplitInternViT',
    'get_arch',
    'merge_lora',
]
