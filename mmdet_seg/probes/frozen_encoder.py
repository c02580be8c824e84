"""What every probe asks of an encoder, whoever wrote it.

Shapes: B images, (H, W) pixels, (h, w) grid, K prefix tokens, D channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmdet_seg.backbones import ARCHS, InternViT, get_arch

RANDOM = 'random:'  # an encoder of the table without weights: for timings and as a floor
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class LayerFeatures(NamedTuple):
    """One block's output, in the encoder's precision.

    Attributes:
        prefix: (B, K, D) class token first, then registers; K may be 0.
        patches: (B, D, h, w) contiguous in whatever way is cheapest.
    """

    prefix: Tensor
    patches: Tensor


class FrozenEncoder(nn.Module):
    """An encoder that never trains: images in, the features of any of its blocks out.

    Attributes:
        name: As the user typed it.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        patch_size: Pixels between cells; H and W are multiples of it.
        num_prefix_tokens: K.
        img_size: Native side in pixels.
        mean: Of the pixels, 0 to 255, RGB; images are normalised by whoever reads them.
        std: Likewise.
        has_final_norm: Whether the encoder ends with a norm that it was trained with.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    num_prefix_tokens: int
    img_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    has_final_norm: bool = False

    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        """Outputs of blocks; the pass ends after the last one that is asked for.

        Args:
            images: (B, 3, H, W) RGB, normalised by :attr:`mean` and :attr:`std`, any float dtype.
            layers: Blocks, counted from 0, in any order.
            final_norm: Put what comes out through the encoder's own last norm, as DINO's probes do.

        Raises:
            ValueError: A block that does not exist, a side that is no multiple of ``patch_size``,
                or ``final_norm`` where there is none.
        """
        raise NotImplementedError

    def check_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """``layers`` with negative ones counted from the last block.

        Raises:
            ValueError: A block that the encoder does not have.
        """
        for layer in layers:
            if not -self.depth <= layer < self.depth:
                raise ValueError(
                    f'layer {layer} is not one of the {self.depth} blocks of {self.name} '
                    f'(0 .. {self.depth - 1}, or negative from the last).'
                )
        return tuple(layer % self.depth for layer in layers)


class InternViTEncoder(FrozenEncoder):
    """Our own encoder.

    Args:
        encoder: Frozen.
        name: As the user typed it.
    """

    def __init__(self, encoder: InternViT, name: str) -> None:
        super().__init__()
        arch = encoder.arch
        self.encoder, self.name = encoder.eval().requires_grad_(False), name
        self.embed_dim, self.depth, self.num_heads = arch.embed_dim, arch.depth, arch.num_heads
        self.patch_size, self.img_size = arch.patch_size, arch.img_size
        self.num_prefix_tokens = encoder.num_prefix_tokens
        self.mean, self.std = _IMAGENET

    @torch.no_grad()
    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        """See :meth:`FrozenEncoder.features`."""
        wanted = set(self.check_layers(layers))
        if final_norm:
            raise ValueError(f'{self.name} has no final norm; leave it out.')
        out, K = {}, self.num_prefix_tokens
        with self.encoder.precision(images):
            tokens, grid = self.encoder.stem(images)
            states = self.encoder.run_blocks(tokens, grid, stop=max(wanted) + 1)
            for i, tokens in enumerate(states):
                if i in wanted:
                    patches = tokens[:, K:].unflatten(1, grid).permute(0, 3, 1, 2)
                    out[i] = LayerFeatures(tokens[:, :K], patches)
        return out


def open_encoder(source: str, *, dtype: torch.dtype | str | None = None) -> FrozenEncoder:
    """The frozen encoder that a user means.

    Args:
        source: A checkpoint in any published layout, a run's checkpoint, a hub id or the name of a
            published encoder; ``random:NAME`` for one of the table without weights (seed 0).
        dtype: Of the weights; None is bfloat16.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: It is broken, or no encoder.
    """
    if source.startswith(RANDOM):
        arch = get_arch(source.removeprefix(RANDOM))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = InternViT(arch, -1, frozen=True, dtype=dtype)
    else:
        encoder = InternViT.from_pretrained(source, frozen=True, dtype=dtype)
    return InternViTEncoder(encoder, source)


def published_names() -> list[str]:
    """Encoders of the table with weights to be had."""
    return [name for name, arch in ARCHS.items() if arch.hub_id]
