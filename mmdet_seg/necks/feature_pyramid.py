"""Maps of one stride to a pyramid, with the authors' parameter names.

Shapes: B batch, D channels, (h, w) grid of stride P, P patch side in pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.registry import register_everywhere

_FACTORS = (4, 2, 1, 0.5)  # of the grid's resolution, shallow to deep


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a (B, D, h, w) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Halve(nn.Module):
    """2x2 max pooling that leaves a side of one cell as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, [min(2, side) for side in x.shape[-2:]])


@register_everywhere
class FeaturePyramid(BaseModule):
    """Four levels at P/4, P/2, P and 2P pixels from four maps, or all four from a single one.

    Shapes::

        inputs   one or four (B, D, h, w) maps of stride P, shallow to deep
        outputs  (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w), (B, D, h // 2, w // 2)

    Args:
        in_channels: D, or a list of equal ones; the segmentor fills it from the encoder.
        in_strides: P, or a list of equal ones; likewise. Only ``output_spec`` reads it.
        final_norm: Normalise the channels of every level.
        norm_eps: Of every norm.

    Raises:
        ValueError: Channels or strides that differ between maps, or neither one nor four of them.

    Source:
        The ``up1`` .. ``up4`` branches of OpenGVLab/InternVL's ``segmentation`` backbone, after
        BEiT.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_strides: int | Sequence[int] = 16,
        *,
        final_norm: bool = False,
        norm_eps: float = 1e-6,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        D = self.channels = _single('in_channels', in_channels)
        self.in_stride = _single('in_strides', in_strides)

        def up() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(D, D, kernel_size=2, stride=2)

        def norm() -> nn.Module:
            return LayerNorm2d(D, eps=norm_eps) if final_norm else nn.Identity()

        self.up1 = nn.Sequential(up(), LayerNorm2d(D, eps=norm_eps), nn.GELU(), up(), norm())
        self.up2 = nn.Sequential(up(), norm())
        self.up3 = nn.Sequential(nn.Identity(), norm())
        self.up4 = nn.Sequential(Halve(), norm())
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def output_spec(self) -> list[FeatureSpec]:
        """Channels and stride of the four levels; the finest strides are rounded."""
        return [FeatureSpec(self.channels, round(self.in_stride / f)) for f in _FACTORS]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        branches = (self.up1, self.up2, self.up3, self.up4)
        if len(inputs) not in (1, len(branches)):
            raise ValueError(
                f'FeaturePyramid takes 1 or {len(branches)} maps, not {len(inputs)}: set the '
                "encoder's out_indices accordingly."
            )
        maps = list(inputs) * (len(branches) // len(inputs))
        return tuple(branch(x) for branch, x in zip(branches, maps, strict=True))


def _single(name: str, value: int | Sequence[int]) -> int:
    values = [value] if isinstance(value, int) else list(value)
    if len(set(values)) != 1 or len(values) not in (1, len(_FACTORS)):
        raise ValueError(f'{name}={values} is not one number or {len(_FACTORS)} equal ones.')
    return values[0]
