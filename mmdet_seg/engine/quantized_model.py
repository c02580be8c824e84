"""The encoders of a trained model in 8 bits, and what that changes on two of the built-in scenes.

Shapes: B images, (H, W) pixels, T tokens, D channels.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.quantization import QuantizationReport, check_device, quantize
from mmdet_seg.datasets.scenes import SMALLEST_SIDE, make_scene

SCENES = 'two built-in scenes'
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def scene_images(
    size: int,
    mean: tuple[float, float, float] = _MEAN,
    std: tuple[float, float, float] = _STD,
    count: int = 2,
) -> Tensor:
    """(count, 3, size, size) float32 of the built-in scenes, normalised."""
    drawn = max(size, SMALLEST_SIDE)
    images = [make_scene(seed, (drawn, drawn)).image for seed in range(count)]
    images = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images]
    values = (np.stack(images) - np.array(mean)) / np.array(std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def quantize_model(model: nn.Module, how: str) -> QuantizationReport:
    """Hold the weights of a model's InternViT in 8 bits, in place; it must not train any more.

    Raises:
        ValueError: It has no InternViT, torchao is not installed, or the device cannot do this.
    """
    encoder = next((m for m in model.modules() if isinstance(m, InternViT)), None)
    if encoder is None:
        raise ValueError(f'--quantize {how}: the model has no InternViT.')
    device = encoder.pos_embed.device
    check_device(how, device)
    images = scene_images(encoder.arch.img_size).to(device)

    def features() -> dict[int, Tensor]:
        with encoder.precision(images):
            tokens, grid = encoder.stem(images)
            return dict(enumerate(encoder.run_blocks(tokens, grid)))

    return quantize(encoder.eval(), encoder.blocks, how, features, SCENES)
