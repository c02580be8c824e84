"""The parts of ViT-Adapter that exchange what two branches know, with the authors' names.

Shapes: B batch, D channels, N patch tokens of an (h, w) grid with stride P, C adapter tokens: the
maps of strides 8, 16 and 32 one after the other; Q queries, L levels, M heads, S sampling points of
a head on a level.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmdet_seg.ops import ms_deform_attn

Size = tuple[int, int]


class Places(NamedTuple):
    """Where the tokens of both branches are.

    Attributes:
        sizes: Height and width of every adapter level.
        grid: (h, w) of the encoder.
        in_levels: (1, N, L, 2), centre of every patch in every adapter level, x then y, 0 and 1 at
            the edges of what the level covers.
        in_grid: (1, C, 1, 2), centre of every adapter token in the encoder's grid.
        level_cells: (L, 2), width and height of every adapter level.
        grid_cells: (1, 2), those of the encoder's grid.
    """

    sizes: list[Size]
    grid: Size
    in_levels: Tensor
    in_grid: Tensor
    level_cells: Tensor
    grid_cells: Tensor

    @classmethod
    def of(
        cls, sizes: list[Size], strides: Sequence[int], grid: Size, patch: int, like: Tensor
    ) -> 'Places':
        """Places by true pixels: grids need not cover exactly the same ones."""
        levels, encoder = list(zip(sizes, strides, strict=True)), [(grid, patch)]
        return cls(
            sizes,
            grid,
            _references(encoder, levels, like),
            _references(levels, encoder, like),
            _cells(sizes, like),
            _cells([grid], like),
        )


def _cells(sizes: list[Size], like: Tensor) -> Tensor:
    """Widths and heights: (L, 2). Scalars one by one, which an exporter can follow."""
    scalars = [
        torch.scalar_tensor(n, dtype=_dtype(like), device=like.device)
        for h, w in sizes
        for n in (w, h)
    ]
    return torch.stack(scalars).view(-1, 2)


def _dtype(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)  # in half, places would be off by pixels


def _references(
    queries: list[tuple[Size, int]], values: list[tuple[Size, int]], like: Tensor
) -> Tensor:
    """Centres of the queries' cells in coordinates of each of the values' grids: (1, Q, L, 2)."""
    dtype, centres = _dtype(like), []
    for (h, w), stride in queries:
        y, x = ((torch.arange(n, device=like.device, dtype=dtype) + 0.5) * stride for n in (h, w))
        centres.append(torch.stack(torch.meshgrid(x, y, indexing='xy'), -1).flatten(0, 1))
    pixels = torch.cat(centres)  # (Q, 2)
    places = [
        torch.stack([pixels[:, 0] / (w * stride), pixels[:, 1] / (h * stride)], -1)
        for (h, w), stride in values
    ]
    return torch.stack(places, 1)[None]


class DeformAttention(nn.Module):
    """Multi-scale deformable attention: each query samples a few places around its own.

    Args:
        dim: D.
        num_levels: L.
        num_heads: M.
        num_points: S.
        ratio: Channels of the values over D.

    Raises:
        ValueError: The values' channels cannot be shared out to the heads.

    Source:
        Deformable DETR, https://arxiv.org/abs/2010.04159.
    """

    def __init__(
        self, dim: int, num_levels: int, num_heads: int, num_points: int, ratio: float
    ) -> None:
        super().__init__()
        inner = int(dim * ratio)
        if not inner or inner % num_heads:
            raise ValueError(
                f'deform_num_heads={num_heads} does not divide the {inner} channels that '
                f'deform_ratio={ratio} leaves of {dim}.'
            )
        self.split = (num_heads, num_levels, num_points)
        self.sampling_offsets = nn.Linear(dim, math.prod(self.split) * 2)
        self.attention_weights = nn.Linear(dim, math.prod(self.split))
        self.value_proj = nn.Linear(dim, inner)
        self.output_proj = nn.Linear(inner, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Each head looks its own way, point i at i + 1 cells; all points count the same."""
        M, L, S = self.split
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(M, dtype=torch.float32) * (2 * math.pi / M)
        ways = torch.stack([angles.cos(), angles.sin()], -1)
        ways = ways / ways.abs().amax(-1, keepdim=True)  # (M, 2), on the square
        steps = torch.arange(1, S + 1, dtype=torch.float32)
        offsets = ways.view(M, 1, 1, 2) * steps.view(1, 1, S, 1)
        self.sampling_offsets.bias.copy_(offsets.expand(M, L, S, 2).flatten())
        for layer in (self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(layer)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, places: Tensor, values: Tensor, sizes: Sequence[Size], cells: Tensor
    ) -> Tensor:
        """Sample the values around every query's place.

        Args:
            query: (B, Q, D).
            places: (1, Q, L, 2).
            values: (B, sum of h*w, D).
            sizes: Height and width of every level.
            cells: (L, 2), the same as width and height.

        Returns:
            (B, Q, D).
        """
        M, L, S = self.split
        value = self.value_proj(values).unflatten(-1, (M, -1))
        offsets = self.sampling_offsets(query).to(places.dtype).unflatten(-1, (M, L, S, 2))
        where = places[:, :, None, :, None] + offsets / cells[:, None]
        weights = self.attention_weights(query).to(places.dtype).unflatten(-1, (M, L * S))
        weights = weights.softmax(-1).unflatten(-1, (L, S))
        return self.output_proj(ms_deform_attn(value, sizes, where, weights))


class Injector(nn.Module):
    """What the adapter knows, added to the encoder's patch tokens: (B, N, D) -> (B, N, D)."""

    def __init__(
        self, dim: int, num_levels: int, attention: tuple[int, int, float], eps: float, init: float
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=eps)
        self.feat_norm = nn.LayerNorm(dim, eps=eps)
        self.attn = DeformAttention(dim, num_levels, *attention)
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor, c: Tensor, places: Places) -> Tensor:
        where = (places.in_levels, self.feat_norm(c), places.sizes, places.level_cells)
        return x + self.gamma * self.attn(self.query_norm(x), *where)


class DepthwiseConv(nn.Module):
    """3x3 over each level by itself: (B, C, d) -> (B, C, d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, sizes: Sequence[Size]) -> Tensor:
        levels = x.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        maps = [self.dwconv(t.unflatten(2, size)) for t, size in zip(levels, sizes, strict=True)]
        return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)


class ConvFFN(nn.Module):
    """Linear, depth-wise convolution, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, sizes: Sequence[Size]) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), sizes)))


class Extractor(nn.Module):
    """What the encoder knows, added to the adapter's tokens: (B, C, D) -> (B, C, D)."""

    def __init__(
        self,
        dim: int,
        attention: tuple[int, int, float],
        eps: float,
        cffn_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=eps)
        self.feat_norm = nn.LayerNorm(dim, eps=eps)
        self.attn = DeformAttention(dim, 1, *attention)
        if cffn_ratio:
            self.ffn = ConvFFN(dim, int(dim * cffn_ratio))
            self.ffn_norm = nn.LayerNorm(dim, eps=eps)
            self.drop_path = StochasticDepth(drop_path, 'row') if drop_path else nn.Identity()

    def forward(self, c: Tensor, x: Tensor, places: Places) -> Tensor:
        where = (places.in_grid, self.feat_norm(x), [places.grid], places.grid_cells)
        c = c + self.attn(self.query_norm(c), *where)
        if hasattr(self, 'ffn'):
            c = c + self.drop_path(self.ffn(self.ffn_norm(c), places.sizes))
        return c


class Interaction(nn.Module):
    """Around a group of blocks: an injector before it, extractors after it.

    Args:
        dim: D.
        num_levels: L.
        attention: Heads, points and ratio of deformable attention.
        eps: Of the token norms.
        cffn_ratio: Hidden channels of the extractors' feed-forward over D; 0 leaves it out.
        drop_path: Rate of the feed-forward.
        gamma: Start of the injector's scale; None leaves the injector out.
        num_extra: Further extractors.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        attention: tuple[int, int, float],
        eps: float,
        cffn_ratio: float,
        drop_path: float,
        gamma: float | None,
        num_extra: int,
    ) -> None:
        super().__init__()
        if gamma is not None:
            self.injector = Injector(dim, num_levels, attention, eps, gamma)
        extractors = [
            Extractor(dim, attention, eps, cffn_ratio, drop_path) for _ in range(1 + num_extra)
        ]
        self.extractor = extractors[0]
        if num_extra:
            self.extra_extractors = nn.ModuleList(extractors[1:])

    def extractors(self) -> list[Extractor]:
        """All of them, in order."""
        return [self.extractor, *getattr(self, 'extra_extractors', [])]
