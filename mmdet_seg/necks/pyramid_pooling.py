"""UperNet's view of the whole image, as a neck.

Shapes: B batch, D channels, (h, w) the coarsest map, S bins.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.necks.feature_pyramid import LayerNorm2d
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm
from mmdet_seg.registry import register_everywhere


def _layer(before: int, after: int, side: int, norm: type[nn.Module]) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, norm(after), nn.ReLU(inplace=True))


@register_everywhere
class PyramidPooling(BaseModule):
    """Adds means over the image, its halves, thirds and sixths to the coarsest of several maps.

    A top-down pyramid behind it (mmdet's ``FPN``) takes them to the finer ones. An encoder that
    starts from nothing learns the built-in scenes with it in half the steps: what a thing can be
    depends on the place, which windows of a few pixels do not tell.

    Shapes::

        inputs   maps, fine to coarse; the coarsest is (B, D, h, w)
        outputs  the same, the coarsest mixed with its means

    Args:
        in_channels: Of every map; the detector fills it from the encoder.
        in_strides: Likewise. Only ``output_spec`` reads it.
        channels: Of every mean.
        bins: S along a side, of every mean.

    Source:
        Pyramid Scene Parsing Network, https://arxiv.org/abs/1612.01105, as UperNet uses it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: int = 64,
        bins: Sequence[int] = (1, 2, 3, 6),
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.spec = [FeatureSpec(*each) for each in zip(in_channels, in_strides, strict=True)]
        D, self.bins = in_channels[-1], tuple(bins)
        # One image alone has one mean per channel, from which a batch norm learns nothing.
        self.means = nn.ModuleList(_layer(D, channels, 1, LayerNorm2d) for _ in self.bins)
        self.mix = _layer(D + channels * len(self.bins), D, 3, SyncBatchNorm)

    def output_spec(self) -> list[FeatureSpec]:
        """Channels and strides, which stay."""
        return self.spec

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        *finer, x = inputs
        parts = [x]
        for number, layer in zip(self.bins, self.means, strict=True):
            mean = layer(F.adaptive_avg_pool2d(x, number))
            parts.append(F.interpolate(mean, size=x.shape[2:], mode='bilinear'))
        return (*finer, self.mix(torch.cat(parts, dim=1)))
