"""``compile_blocks``: the encoder's blocks through ``torch.compile``, one by one."""

from typing import Any

import torch
from torch import nn


def compile_blocks(model: nn.Module, options: Any) -> None:
    """Compile the forward pass of every block of ``model.backbone``.

    Args:
        model: Before a strategy takes it over.
        options: Keywords of ``torch.compile``, or True for none.

    Raises:
        ValueError: No encoder with blocks, or an option or backend that there is not.
    """
    settings = dict(options) if isinstance(options, dict) else {}
    blocks = getattr(model.backbone, 'blocks', None)
    if blocks is None:
        raise ValueError(
            f'compile_blocks is for encoders with blocks, and {type(model.backbone).__name__} has '
            'none: leave compile_blocks out.'
        )
    for block in blocks:
        # Not the block itself: what a strategy does before and after it stays outside.
        try:
            block.forward = torch.compile(block.forward, **settings)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f'compile_blocks={settings}: {error}') from error
