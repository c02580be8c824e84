"""Small encoders and labelled images for the tests of classification."""

import numpy as np
import torch

from mmdet_seg.backbones import InternViT, get_arch
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.frozen_encoder import InternViTEncoder
from mmdet_seg.probes.labelled_images import LabelledImages


def small_reader(*, prefix=1, patch=14, batch=8, seed=0, depth=3):
    """An untrained encoder in float32; 28 or 32 pixels are two patches."""
    arch = get_arch(
        'tiny', patch_size=patch, img_size=2 * patch, num_prefix_tokens=prefix, depth=depth
    )
    torch.manual_seed(seed)
    encoder = InternViT(arch, -1, frozen=True, dtype=torch.float32)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return Reader(InternViTEncoder(encoder, 'small'), batch=batch)


def small_images(count=40, classes=4, seed=0, name='squares/train'):
    """Noise whose colour tells the class."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    pixels = draws.integers(0, 100, (count, 20, 24, 3))
    pixels[:, :, :, :2] += (labels[:, None, None, None] * 50 // np.array([1, 2])).astype(int)
    names = [f'class {i}' for i in range(classes)]
    return LabelledImages(name, labels, names, pixels=pixels.clip(0, 255).astype(np.uint8))
