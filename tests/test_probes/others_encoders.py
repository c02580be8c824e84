"""Small encoders of other libraries, as users name them."""

import pytest
import torch

_VISION = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64
)
_TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def others_encoder(kind, folder):
    """What ``probe.py`` takes as ENCODER: ``timm:`` without weights, or ``hf:`` and a folder."""
    if kind == 'timm':
        pytest.importorskip('timm')
        return 'timm:random:test_vit'
    t = pytest.importorskip('transformers')
    text = dict(**_TEXT, vocab_size=100, bos_token_id=0, eos_token_id=1)
    vision = dict(**_VISION, patch_size=16)
    config = {
        'dinov2': lambda: t.Dinov2Config(**_VISION, patch_size=14),
        'siglip': lambda: t.SiglipConfig(text_config=text, vision_config=vision),
        'clip': lambda: t.CLIPConfig(text_config=text, vision_config=vision),
    }[kind]()
    torch.manual_seed(0)
    t.AutoModel.from_config(config).save_pretrained(folder)
    return f'hf:{folder}'
