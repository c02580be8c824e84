"""InternViT whose last blocks are run by the head, which puts queries among the tokens.

Shapes: B batch, K prefix tokens, N patch tokens, Q queries, D channels, (h, w) grid, P patch side.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdet_seg.backbones.intern_vit import InternViT
from mmdet_seg.backbones.variants import Arch
from mmdet_seg.registry import register_everywhere

Stage = Callable[[Tensor, Tensor | None], Tensor]


class OpenTokens(NamedTuple):
    """Tokens between two blocks of an encoder, and the blocks that are still to come.

    A tuple: what shards a model's weights finds its outputs only in tuples, lists and dicts.

    Attributes:
        tokens: (B, K + N, D), in the precision of the encoder.
        grid: (h, w).
        num_prefix_tokens: K.
        stages: Each runs one block over (B, Q + K + N, D) tokens, with a mask (B, Q, Q + K + N)
            bool of what the queries see or None, in the precision of the blocks before.
    """

    tokens: Tensor
    grid: tuple[int, int]
    num_prefix_tokens: int
    stages: list[Stage]

    def float(self) -> 'OpenTokens':
        """Itself: the segmentor asks for float32 maps, tokens stay as the blocks take them."""
        return self


@register_everywhere
class SplitInternViT(InternViT):
    """InternViT that stops before its last blocks and hands them to the head.

    Everything else, checkpoints included, is :class:`InternViT`'s.

    Shapes::

        x        (B, 3, H, W)
        outs[0]  OpenTokens: tokens before the blocks that are left, and these blocks

    Args:
        arch: See :class:`InternViT`.
        num_query_blocks: Blocks that are left to the head.
        kwargs: Of :class:`InternViT`; ``out_indices`` names one block, the last that is run.

    Raises:
        ValueError: More blocks than there are, several outputs, windows in the last blocks, or
            frozen last blocks, which would stop the gradient on its way to the queries.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = '300m-448px-v2-5',
        out_indices: int | list[int] = -1,
        *,
        num_query_blocks: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(arch, out_indices, **kwargs)
        used = self.out_indices[-1] + 1
        if not 1 <= num_query_blocks <= used or len(self.out_indices) > 1:
            raise ValueError(
                f'num_query_blocks={num_query_blocks} and out_indices={list(self.out_indices)}: '
                f'give one output block and 1 to {used} query blocks.'
            )
        self.num_query_blocks = num_query_blocks
        self.first_query_block = used - num_query_blocks
        if self.frozen_stages > self.first_query_block:
            raise ValueError(
                f'{self.frozen_stages} frozen blocks leave fewer than the {num_query_blocks} that '
                f'queries pass, which have to train: --tune partial:{num_query_blocks}, full or '
                'lora, or configs/eomt_internvit_frozen.py for a frozen encoder.'
            )
        if any(block.attn.window for block in self.blocks[self.first_query_block : used]):
            raise ValueError(
                f'window_size: the last {num_query_blocks} blocks hold queries, which belong to no '
                'window; name these blocks in global_blocks.'
            )

    def forward(self, x: Tensor) -> tuple[OpenTokens]:
        """Stem and first blocks: (B, 3, H, W) -> the tokens and the blocks that are left."""
        with self.precision(x):
            tokens, grid = self.stem(x)
            for i in range(self.first_query_block):
                tokens = self.run_block(i, tokens, grid)
            stages = self._stages(grid, tokens.device.type)
            return (OpenTokens(tokens, grid, self.num_prefix_tokens, stages),)

    def _stages(self, grid: tuple[int, int], device: str) -> list[Stage]:
        """The blocks that are left, with the precision that holds here."""
        # The head's own precision must not reach the blocks.
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        cached = torch.is_autocast_cache_enabled()

        def stage(index: int, x: Tensor, mask: Tensor | None) -> Tensor:
            if torch.compiler.is_exporting():  # what is exported has one precision
                return self.run_block(index, x, grid, mask)
            with torch.autocast(device, dtype, enabled=enabled, cache_enabled=cached):
                return self.run_block(index, x, grid, mask)

        last = self.first_query_block + self.num_query_blocks
        return [partial(stage, i) for i in range(self.first_query_block, last)]
