"""A frozen encoder with weights of 8 bits, and what that changes in the features.

Shapes: B images, (H, W) pixels, T tokens, D channels.
"""

import torch
from torch import Tensor

from mmdet_seg.backbones.quantization import QuantizationReport, check_device, quantize
from mmdet_seg.engine.quantized_model import SCENES, scene_images
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.weights_hash import hash_of


def quantize_encoder(
    encoder: FrozenEncoder, how: str, images: Tensor | None = None
) -> QuantizationReport:
    """Hold the linear weights of the blocks in 8 bits, in place.

    The encoder's identity changes, so its features do not mix with those of before.

    Args:
        encoder: On the device where it will run.
        how: ``int8`` (weights), or ``fp8`` (weights and activations) on GPUs that have it.
        images: (B, 3, H, W), normalised, to measure the change on; None takes two of the built-in
            scenes at the encoder's native size.

    Raises:
        ValueError: torchao is not installed, the device cannot do this, or it is done already.
    """
    check_device(how, encoder.device)
    if encoder.quantization:
        raise ValueError(f'{encoder.name} is quantised already ({encoder.quantization}).')
    identity, words = encoder.identity, 'the given images'
    if images is None:
        side = max(encoder.img_size // encoder.patch_size, 1) * encoder.patch_size
        images, words = scene_images(side, encoder.mean, encoder.std), SCENES
    images = images.to(encoder.device)

    def features() -> dict[int, Tensor]:
        found = encoder.features(images, range(encoder.depth))
        return {
            layer: torch.cat([x.prefix, x.patches.flatten(2).transpose(1, 2)], dim=1)
            for layer, x in found.items()
        }

    report = quantize(encoder, encoder.blocks, how, features, words)
    encoder.quantization = how
    encoder._identity = hash_of(identity, how)
    return report
