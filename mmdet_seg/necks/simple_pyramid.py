"""ViTDet's simple feature pyramid: a detector's levels from the map of a plain ViT.

Shapes: B batch, D channels of the encoder, C channels of the levels, (h, w) grid of stride P.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.necks.feature_pyramid import Halve
from mmdet_seg.necks.spatial_prior import map_norm
from mmdet_seg.registry import register_everywhere

_FACTORS = (4, 2, 1, 0.5)  # of the grid's resolution


@register_everywhere
class SimplePyramid(BaseModule):
    """Levels at P/4, P/2, P, 2P and 4P pixels, or some of them, from maps of one stride.

    Transposed convolutions or pooling make the four resolutions, a 1x1 and a 3x3 convolution with
    channel norms the levels; the coarsest is every second pixel of the one before. Published is the
    last block's map alone; several blocks' maps are put behind one another, which gives an encoder
    that starts from nothing shorter ways to learn on.

    Shapes::

        inputs   (B, D, h, w) maps of stride P
        outputs  (B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w), (B, C, h // 2, w // 2), and half that

    Args:
        in_channels: D, or a list with one for each map; the detector fills it from the encoder.
        in_strides: P, or a list of equal ones; likewise. Only ``output_spec`` reads it.
        out_channels: C.
        factors: Of the grid's resolution, of each level: 4, 2, 1 and 0.5, fine to coarse.
        extra_level: Add one level that halves the coarsest.
        norm: ``layer`` as published, or ``sync_bn``, which an encoder from scratch learns more
            quickly with: it takes out what all places have in common.

    Raises:
        ValueError: Maps of different strides, another number of maps, another factor or norm.

    Source:
        Exploring Plain Vision Transformer Backbones for Object Detection,
        https://arxiv.org/abs/2203.16527.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_strides: int | Sequence[int] = 16,
        *,
        out_channels: int = 256,
        factors: Sequence[float] = _FACTORS,
        extra_level: bool = True,
        norm: str = 'layer',
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        make_norm = map_norm(norm)
        channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        strides = {in_strides} if isinstance(in_strides, int) else set(in_strides)
        if len(strides) != 1:
            raise ValueError(f'in_strides={list(in_strides)} are not equal.')
        self.num_maps, (self.in_stride,) = len(channels), strides
        D = sum(channels)
        C = self.channels = out_channels
        self.extra_level = extra_level

        def up(before: int, after: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(before, after, kernel_size=2, stride=2)

        def level(before: int) -> list[nn.Module]:
            return [
                nn.Conv2d(before, C, kernel_size=1, bias=False),
                make_norm(C),
                nn.Conv2d(C, C, kernel_size=3, padding=1, bias=False),
                make_norm(C),
            ]

        if not factors or any(f not in _FACTORS for f in factors):
            raise ValueError(f'factors={list(factors)}: there are {_FACTORS}.')
        self.factors = tuple(factors)
        half, quarter = max(D // 2, 1), max(D // 4, 1)
        made = {
            4: lambda: [
                up(D, half),
                make_norm(half),
                nn.GELU(),
                up(half, quarter),
                *level(quarter),
            ],
            2: lambda: [up(D, half), *level(half)],
            1: lambda: level(D),
            0.5: lambda: [Halve(), *level(D)],
        }
        self.levels = nn.ModuleList(nn.Sequential(*made[f]()) for f in factors)

    def output_spec(self) -> list[FeatureSpec]:
        """Channels and stride of every level; the finest strides are rounded."""
        strides = [round(self.in_stride / f) for f in self.factors]
        strides += [2 * strides[-1]] * self.extra_level
        return [FeatureSpec(self.channels, stride) for stride in strides]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != self.num_maps:
            raise ValueError(
                f'SimplePyramid was made for {self.num_maps} maps and is given {len(inputs)}.'
            )
        x = torch.cat(list(inputs), dim=1) if self.num_maps > 1 else inputs[0]
        maps = [level(x) for level in self.levels]
        if self.extra_level:
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return tuple(maps)
