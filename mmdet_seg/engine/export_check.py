"""Whether an exported file answers as its model does, at sizes that were not traced.

Shapes: B images, C classes, (H, W) pixels, P the step in which sizes may vary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmdet_seg.engine.exported_segmentor import traced_grid

TOLERANCE = 1e-3  # of the largest logit, fp32


@dataclass(frozen=True)
class Check:
    """One input on which the file was compared with the model.

    Attributes:
        shape: Of the images, (B, 3, H, W).
        relative: Largest difference of a logit, over the largest logit.
        same_labels: Share of pixels with the same best class.
    """

    shape: tuple[int, ...]
    relative: float
    same_labels: float

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE  # not for NaN

    @property
    def size(self) -> str:
        return ' x '.join(map(str, self.shape))

    def __str__(self) -> str:
        return (
            f'{self.size:>16}  difference {self.relative:.1e} relative, '
            f'{100 * self.same_labels:.2f} % of labels the same'
        )


@torch.no_grad()
def reference(model: nn.Module, images: Tensor) -> Tensor:
    """Logits as mmseg computes them, from the preprocessor to the resizing: (B, C, H, W)."""
    pictures = [image.flip(0).to(torch.uint8) for image in images]  # BGR, as read from files
    facts = [dict(img_shape=tuple(images.shape[2:])) for _ in pictures]
    samples = [SegDataSample(metainfo=fact) for fact in facts]
    data = model.data_preprocessor(dict(inputs=pictures, data_samples=samples))
    return model.encode_decode(data['inputs'], facts)


def compare(found: Tensor, expected: Tensor) -> Check:
    """Logits of the file beside those of the model."""
    if found.shape != expected.shape:
        return Check(tuple(found.shape), math.nan, 0.0)
    relative = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    same = (found.argmax(1) == expected.argmax(1)).float().mean()
    B, _, H, W = expected.shape
    return Check((B, 3, H, W), relative.item(), same.item())


def check_inputs(model: nn.Module, size: Sequence[int], step: int, least: int) -> list[Tensor]:
    """Pictures of the size asked for, of two others, and of the position table's own.

    Args:
        model: The segmentor.
        size: (H, W) in pixels.
        step: P, of :func:`mmdet_seg.engine.exported_segmentor.patch_step`.
        least: Fewest patches of a side.

    Returns:
        (B, 3, H, W) float32 each, whole numbers 0 .. 255.
    """
    h, w = (max(least, -(-side // step)) for side in size)
    grids = [(1, h, w), (3, max(least, h // 2), w + 3), (2, h + 1, max(least, 2 * w // 3))]
    arch = getattr(model.backbone, 'arch', None)
    if arch is not None and arch.grid_size >= least:
        grids.append((1, arch.grid_size, arch.grid_size))
    grids = [g for g in dict.fromkeys(grids) if g != traced_grid(least)]
    return [_pictures(n, h * step, w * step) for n, h, w in grids]


def _pictures(n: int, height: int, width: int) -> Tensor:
    """Blotches and grain."""
    generator = torch.Generator().manual_seed(height * width + n)
    coarse = torch.rand(n, 3, 5, 6, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode='bicubic')
    grain = torch.rand(n, 3, height, width, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * grain)).clamp(0, 255).round()
