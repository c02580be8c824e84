"""The encoder and its checkpoints."""

from mmdet_seg.backbones.intern_vit import FeatureSpec, InternViT
from mmdet_seg.backbones.lora import merge_lora
from mmdet_seg.backbones.variants import ARCHS, Arch, get_arch

__all__ = ['ARCHS', 'Arch', 'FeatureSpec', 'InternViT', 'get_arch', 'merge_lora']
