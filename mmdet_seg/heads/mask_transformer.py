"""Masks and classes from queries that pass transformer blocks together with the image's tokens.

Shapes: B images, Q queries, K prefix tokens, N patch tokens, D channels, C classes, (h, w) grid of
stride P pixels, U doublings of the grid.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_seg.necks.feature_pyramid import LayerNorm2d

Stage = Callable[[Tensor, Tensor | None], Tensor]
Prediction = tuple[Tensor, Tensor]
_NORMS = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm}


class Double(nn.Sequential):
    """Twice the resolution: (B, D, h, w) -> (B, D, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            LayerNorm2d(channels, eps=1e-6),
        )


def num_doublings(stride: int) -> int:
    """How often masks double a grid of this stride: to 4 pixels where P is a power of two."""
    return max(1, int(math.log2(stride)) - 2)


def masking_probabilities(
    progress: float,
    starts: Sequence[float],
    ends: Sequence[float],
    power: float = 0.9,
) -> list[float]:
    """Probability that a block masks a query, per block, at a share of the training.

    1 before the block's start, 0 from its end on, in between ``(1 - share of the way) ** power``.

    Args:
        progress: Iterations done over iterations in all.
        starts: Where each block begins to unmask, as shares of the training.
        ends: Where each block no longer masks.
        power: Of the polynomial.
    """
    found = []
    for start, end in zip(starts, ends, strict=True):
        way = 0.0 if progress < start else min((progress - start) / max(end - start, 1e-12), 1.0)
        found.append((1.0 - way) ** power)
    return found


def published_annealing(num_blocks: int) -> tuple[list[float], list[float]]:
    """Starts and ends one after the other: 1/6 .. 4/6 and 2/6 .. 5/6 for the four of EoMT."""
    parts = num_blocks + 2
    return (
        [(i + 1) / parts for i in range(num_blocks)],
        [(i + 2) / parts for i in range(num_blocks)],
    )


class MaskTransformer(nn.Module):
    """Queries among the tokens; before every block and at the end a class and a mask of each query.

    While training, a query sees in a block only the patches inside the mask that it has just
    predicted (and all queries and prefix tokens), with the probabilities of
    :func:`masking_probabilities`. These are zero unless a training sets :attr:`progress`. Outside
    of training nothing is masked and only the last prediction is made: masks end before the
    training does, and a checkpoint gives the same result wherever it is read.

    InternViT has no final norm, and its residual stream grows from block to block; EoMT predicts
    from the encoder's normalised tokens. ``norm`` is therefore the head's, one for all predictions.

    Shapes::

        tokens      (B, K + N, D)
        prediction  (B, Q, C + 1) class logits, the last for no object; (B, Q, h * 2**U, w * 2**U)
                    mask logits

    Args:
        channels: D.
        num_classes: C.
        num_queries: Q.
        stride: P.
        norm: ``layer``, ``rms`` or None.
        annealing: ``dict(starts=[...], ends=[...], power=0.9)`` with a share of the training for
            every block; left out, that of :func:`published_annealing`.
        unmask_empty: Let a query whose mask is empty see everything, as Mask2Former does.

    Raises:
        ValueError: Another norm, or an annealing that does not fit the blocks.

    Source:
        EoMT, https://arxiv.org/abs/2503.19108.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_queries: int,
        stride: int,
        *,
        norm: str | None = 'layer',
        annealing: dict | None = None,
        unmask_empty: bool = False,
    ) -> None:
        super().__init__()
        if norm is not None and norm not in _NORMS:
            raise ValueError(f'norm={norm!r} is not one of {", ".join(_NORMS)} or None.')
        self.num_queries = num_queries
        self.annealing = dict(annealing or {})
        self.unmask_empty = unmask_empty
        self.progress: float | None = None
        self.query = nn.Embedding(num_queries, channels)
        self.norm = _NORMS[norm](channels, eps=1e-6) if norm else nn.Identity()
        self.cls_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )
        self.upscale = nn.Sequential(*(Double(channels) for _ in range(num_doublings(stride))))

    def predict(self, x: Tensor, grid: tuple[int, int]) -> Prediction:
        """Class and mask logits of the queries: (B, Q + K + N, D) -> see the class."""
        x = self.norm(x.to(self.query.weight.dtype))
        queries, patches = x[:, : self.num_queries], x[:, x.shape[1] - grid[0] * grid[1] :]
        maps = self.upscale(patches.transpose(1, 2).unflatten(2, grid))
        masks = torch.einsum('bqd,bdhw->bqhw', self.mask_embed(queries), maps)
        return self.cls_embed(queries), masks

    @torch.no_grad()
    def attention_mask(
        self, masks: Tensor, grid: tuple[int, int], probability: float, num_prefix: int
    ) -> Tensor | None:
        """What every query sees in the next block.

        Args:
            masks: (B, Q, ...) mask logits.
            grid: (h, w).
            probability: That a query is masked.
            num_prefix: K.

        Returns:
            (B, Q, Q + K + N) bool, or None where no query can be masked.
        """
        if probability <= 0:
            return None
        logits = F.interpolate(masks.float(), grid, mode='bilinear', align_corners=False)
        seen = logits.flatten(2) > 0
        if probability < 1:
            seen |= (torch.rand(seen.shape[:2], device=seen.device) > probability)[..., None]
        if self.unmask_empty:
            seen |= ~seen.any(dim=2, keepdim=True)
        return F.pad(seen, (self.num_queries + num_prefix, 0), value=True)

    def probabilities(self, num_blocks: int) -> list[float]:
        """Of masking in each block at :attr:`progress`."""
        if self.progress is None or not self.training:
            return [0.0] * num_blocks
        starts, ends = published_annealing(num_blocks)
        options = {'starts': starts, 'ends': ends, **self.annealing}
        if {len(options['starts']), len(options['ends'])} != {num_blocks}:
            raise ValueError(
                f'annealing has {len(options["starts"])} starts and {len(options["ends"])} ends; '
                f'queries pass {num_blocks} blocks: give one of each per block.'
            )
        return masking_probabilities(self.progress, **options)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], num_prefix: int, stages: Sequence[Stage]
    ) -> list[Prediction]:
        """Run the blocks; the predictions before each and at the end, or the last alone.

        Args:
            tokens: (B, K + N, D).
            grid: (h, w).
            num_prefix: K.
            stages: Each takes (B, Q + K + N, D) tokens and a mask (B, Q, Q + K + N) or None.
        """
        # Called as a module: where weights are sharded, that is what brings them here.
        queries = self.query(torch.arange(self.num_queries, device=tokens.device))
        queries = queries.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        x = torch.cat([queries, tokens], dim=1)
        found = []
        for stage, probability in zip(stages, self.probabilities(len(stages)), strict=True):
            mask = None
            if self.training:
                found.append(self.predict(x, grid))
                mask = self.attention_mask(found[-1][1], grid, probability, num_prefix)
            x = stage(x, mask)
        return [*found, self.predict(x, grid)]
