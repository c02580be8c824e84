"""ViT-Adapter's convolutional branch. Names are the authors'.

Shapes: B batch, (H, W) pixels, D channels of the encoder, S channels of the stem.
"""

from collections.abc import Callable

from torch import Tensor, nn

from mmdet_seg.necks.feature_pyramid import LayerNorm2d
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm

STRIDES = (4, 8, 16, 32)
MapNorm = Callable[[int], nn.Module]


def map_norm(name: str) -> MapNorm:
    """Norm of maps by channels: ``layer`` (InternViT-Adapter) or ``sync_bn`` (the original).

    Raises:
        ValueError: Another name.
    """
    if name == 'layer':
        return lambda channels: LayerNorm2d(channels, eps=1e-6)
    if name == 'sync_bn':
        return SyncBatchNorm
    raise ValueError(f"norm={name!r} is not one of 'layer', 'sync_bn'.")


class SpatialPrior(nn.Module):
    """Four maps of an image by strided convolutions.

    Shapes::

        x     (B, 3, H, W)
        maps  (B, D, ~H / s, ~W / s) for the strides s = 4, 8, 16, 32, sides rounded up

    Args:
        channels: S; later stages have two and four times as many.
        dim: D.
        norm: Makes the norm of a number of channels.
        finest: Whether the map of stride 4 is wanted; else it is None.
    """

    def __init__(self, channels: int, dim: int, norm: MapNorm, finest: bool = True) -> None:
        super().__init__()

        def step(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
            return [conv, norm(c_out), nn.ReLU(inplace=True)]

        S = channels
        self.stem = nn.Sequential(
            *step(3, S, 2), *step(S, S, 1), *step(S, S, 1), nn.MaxPool2d(3, 2, padding=1)
        )
        self.conv2 = nn.Sequential(*step(S, 2 * S, 2))
        self.conv3 = nn.Sequential(*step(2 * S, 4 * S, 2))
        self.conv4 = nn.Sequential(*step(4 * S, 4 * S, 2))
        self.fc1 = nn.Conv2d(S, dim, 1) if finest else None
        self.fc2 = nn.Conv2d(2 * S, dim, 1)
        self.fc3 = nn.Conv2d(4 * S, dim, 1)
        self.fc4 = nn.Conv2d(4 * S, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The map of stride 4, and those of 8, 16 and 32."""
        c1 = self.stem(x)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        finest = None if self.fc1 is None else self.fc1(c1)
        return finest, [self.fc2(c2), self.fc3(c3), self.fc4(c4)]
