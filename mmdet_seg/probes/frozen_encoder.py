"""What every probe asks of an encoder, whoever wrote it.

Shapes: B images, (H, W) pixels, (h, w) grid, N = h * w patches, K prefix tokens, D channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdet_seg.backbones import ARCHS, InternViT, get_arch
from mmdet_seg.probes.weights_hash import hash_weights

RANDOM = 'random:'  # an encoder of the table without weights: for timings and as a floor
TIMM = 'timm:'
HF = 'hf:'
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
        quantization: ``int8`` or ``fp8``; None where the weights are as they were read.
        quantization_report: What that changed.
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
    quantization: str | None = None
    quantization_report: Any = None
    _identity: str | None = None

    @property
    def identity(self) -> str:
        """Hash of the weights' bytes, of the shape they make and of how they were quantised.

        The name does not count, nor where the weights are. Read once: 2 GB a second or so.
        """
        if self._identity is None:
            self._identity = hash_weights(self, self._structure())
        return self._identity

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the features."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Of the whole encoder."""
        return sum(p.numel() for p in self.parameters())

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, in order."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What :class:`mmdet_seg.probes.results.Results` keeps of an encoder."""
        return {
            'name': self.name,
            'identity': self.identity,
            'embed_dim': self.embed_dim,
            'depth': self.depth,
            'patch_size': self.patch_size,
            'num_parameters': self.num_parameters,
            'dtype': str(self.dtype).removeprefix('torch.'),
            'quantization': self.quantization,
        }

    def _structure(self) -> Any:
        """What two encoders with the same weights may still differ in."""
        raise NotImplementedError

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

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Who looks at whom in one block, for pictures.

        Args:
            images: As for :meth:`features`.
            layer: Block, counted from 0, or negative from the last.

        Returns:
            (B, heads, K + N, K + N) float32, row i sums to 1 over what token i reads; tokens are
            the prefix, then the patches in row-major order.

        Raises:
            ValueError: As for :meth:`features`, or a block whose attention is not over all tokens.
        """
        raise NotImplementedError

    def check_size(self, images: Tensor) -> tuple[int, int]:
        """The grid of ``images``.

        Raises:
            ValueError: A side that is no multiple of the patch.
        """
        (H, W), P = images.shape[-2:], self.patch_size
        if H % P or W % P or not (H and W):
            fit = 'x'.join(str(max(round(side / P), 1) * P) for side in (H, W))
            raise ValueError(
                f'Images of {H}x{W} pixels: {self.name} needs multiples of its patch of {P}; '
                f'nearest that fits: {fit}.'
            )
        return H // P, W // P

    def check_final_norm(self, wanted: bool) -> None:
        """Refuse a final norm that there is not.

        Raises:
            ValueError: It is wanted and the encoder has none.
        """
        if wanted and not self.has_final_norm:
            raise ValueError(f'{self.name} has no final norm; leave it out.')

    def check_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """``layers`` with negative ones counted from the last block.

        Raises:
            ValueError: A block that the encoder does not have.
        """
        if not len(layers):
            raise ValueError(f'No layer of {self.name} was asked for; it has {self.depth}.')
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

    @property
    def dtype(self) -> torch.dtype:
        """See :attr:`FrozenEncoder.dtype`."""
        return self.encoder.pos_embed.dtype

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :attr:`FrozenEncoder.blocks`."""
        return self.encoder.blocks

    def _structure(self) -> Any:
        windows = [block.attn.window for block in self.encoder.blocks]
        return {'kind': 'InternViT', **self.encoder.arch.to_dict(), 'windows': windows}

    @torch.no_grad()
    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        """See :meth:`FrozenEncoder.features`."""
        wanted = set(self.check_layers(layers))
        self.check_final_norm(final_norm)
        out, K = {}, self.num_prefix_tokens
        with self.encoder.precision(images):
            tokens, grid = self.encoder.stem(images)
            states = self.encoder.run_blocks(tokens, grid, stop=max(wanted) + 1)
            for i, tokens in enumerate(states):
                if i in wanted:
                    patches = tokens[:, K:].unflatten(1, grid).permute(0, 3, 1, 2)
                    out[i] = LayerFeatures(tokens[:, :K], patches)
        return out

    @torch.no_grad()
    def attention(self, images: Tensor, layer: int) -> Tensor:
        """See :meth:`FrozenEncoder.attention`."""
        (layer,) = self.check_layers([layer])
        block = self.encoder.blocks[layer]
        attn = block.attn
        with self.encoder.precision(images):
            tokens, grid = self.encoder.stem(images)
            if attn.window and max(grid) > attn.window:
                raise ValueError(
                    f'Block {layer} of {self.name} attends within windows of {attn.window} '
                    'patches; pictures need a block that sees everything.'
                )
            for i in range(layer):
                tokens = self.encoder.run_block(i, tokens, grid)
            q, k, _ = attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).float() for t in (q, k))
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def open_encoder(source: str, *, dtype: torch.dtype | str | None = None) -> FrozenEncoder:
    """The frozen encoder that a user means.

    Args:
        source: A checkpoint in any published layout, a run's checkpoint, a hub id or the name of a
            published encoder; ``random:NAME`` for one of the table without weights (seed 0);
            ``timm:NAME`` and ``hf:PATH`` for other people's, see :mod:`.timm_encoder` and
            :mod:`.hf_encoder`.
        dtype: Of the weights; None is bfloat16.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: It is broken, or no encoder.
    """
    if source.startswith(TIMM):
        from mmdet_seg.probes.timm_encoder import open_timm

        return open_timm(source, dtype=dtype)
    if source.startswith(HF):
        from mmdet_seg.probes.hf_encoder import open_hf

        return open_hf(source, dtype=dtype)
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
