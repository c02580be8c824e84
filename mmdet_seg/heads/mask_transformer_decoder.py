"""Blocks of the head's own for queries on a frozen encoder.

Shapes: B images, L maps, D channels, (h, w) grid, N = h * w tokens, Q queries.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmdet_seg.backbones.layers import Block
from mmdet_seg.backbones.variants import Arch
from mmdet_seg.heads.mask_transformer import Stage

# Channels of a head where their number is not given: those of every encoder PMT was published with.
_HEAD_CHANNELS = 64


class LateralDecoder(nn.Module):
    """Sums several maps of a frozen encoder and brings the blocks that queries pass.

    Every map is normalised, adds a small MLP of itself, is scaled per channel and summed. The
    channels of a token are normalised first, without parameters: InternViT ends without the norm
    that the published decoder takes its features after.

    Shapes::

        maps  L of (B, D, h, w)
        outs  tokens (B, N, D) and blocks over (B, Q + N, D)

    Args:
        in_channels: D of every map; all the same.
        num_blocks: Transformer blocks.
        hidden_channels: Of the MLPs in the blocks.
        num_heads: Attention heads; None gives each 64 channels.
        norm_cfg: Of the maps; ``SyncBN`` counts over all processes.

    Raises:
        ValueError: Maps of different width.

    Source:
        PMT, https://github.com/tue-mps/pmt; its rotary positions are left out, since InternViT's
        tokens carry learned ones.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_blocks: int = 6,
        hidden_channels: int = 1024,
        num_heads: int | None = None,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        if len(set(in_channels)) != 1:
            raise ValueError(f'in_channels={list(in_channels)}: the maps differ in width.')
        D = in_channels[0]
        arch = Arch(
            embed_dim=D,
            depth=num_blocks,
            num_heads=num_heads or max(D // _HEAD_CHANNELS, 1),
            mlp_ratio=hidden_channels / D,
            qkv_bias=True,
            qk_norm=False,
            norm='layer',
            layer_scale_init=1.0,
            num_prefix_tokens=0,
        )
        norm_cfg = norm_cfg or dict(type='SyncBN')
        self.norms = nn.ModuleList(build_norm_layer(norm_cfg, D)[1] for _ in in_channels)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Linear(D, D // 2), nn.GELU(), nn.Linear(D // 2, D))
            for _ in in_channels
        )
        self.scales = nn.Parameter(torch.ones(len(in_channels), D))
        self.blocks = nn.ModuleList(Block(arch, 0.0, 'auto', 0) for _ in range(num_blocks))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Stage]]:
        """Tokens and blocks, see the class."""
        total = 0
        for x, norm, lateral, scale in zip(
            maps, self.norms, self.laterals, self.scales, strict=True
        ):
            x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
            x = norm(x).flatten(2).transpose(1, 2)  # (B, N, D)
            total = total + (x + lateral(x)) * scale
        grid = tuple(maps[0].shape[2:])
        return total, [partial(_run, block, grid) for block in self.blocks]


def _run(block: Block, grid: tuple[int, int], x: Tensor, mask: Tensor | None) -> Tensor:
    return block(x, grid, mask)
