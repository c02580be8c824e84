"""InternViT, the one vision transformer of this repository.

Shapes: B batch, (H, W) pixels, P patch side, (h, w) = (H / P, W / P) grid, N = h * w patch tokens,
K prefix tokens (the class token), D channels.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, weight_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from mmdet_seg.backbones.arguments import resolve_dtype, resolve_indices, resolve_windows
from mmdet_seg.backbones.checkpoint import LoadReport, load_encoder, open_checkpoint
from mmdet_seg.backbones.checkpoint_contents import Checkpoint
from mmdet_seg.backbones.layers import Block, FusedLinear, PatchEmbed
from mmdet_seg.backbones.lora import accept_state, add_adapters, reset_adapters, resolve_lora
from mmdet_seg.backbones.pos_embed import resample_positions
from mmdet_seg.backbones.variants import Arch, get_arch
from mmdet_seg.registry import register_everywhere


class FeatureSpec(NamedTuple):
    """What a map is: its channels and the pixels between neighbouring cells."""

    channels: int
    stride: int


@register_everywhere
class InternViT(BaseModule):
    """Plain ViT: pre-norm blocks, layer scale, optional QK-norm, no final norm.

    Shapes::

        x        (B, 3, H, W)   RGB, ImageNet-normalised; H and W are multiples of P
        tokens   (B, K + N, D)  class token first, then patch tokens in row-major order
        outs[i]  (B, D, h, w)   one map per entry of ``out_indices``, stride P pixels

    Maps and tokens come in the dtype of ``x``, whatever dtype the weights are held in.

    Args:
        arch: Name in :data:`variants.ARCHS` or a dict of the fields of :class:`variants.Arch`.
        out_indices: Blocks to return, from 0, ascending; negative counts from the last block.
        patch_size: Another patch side; published kernels are resampled on loading.
        img_size: Another native size of the position table; a published table is resampled on
            loading. Other input sizes always work: the table is then resampled in ``forward``.
        drop_path_rate: Overrides the arch's.
        frozen: Keep every parameter without gradient and the module in eval mode, run without a
            graph, and hold the weights in ``dtype``.
        frozen_stages: -1 trains everything, 0 freezes the stem (patches, positions, class token),
            k the first k blocks too.
        lora: Fields of :class:`lora.Lora` (``dict(rank=16)``): adapters on the linear layers of
            every block that an output depends on and that is not frozen are all that trains.
        dtype: Of the weights; None means bfloat16 if ``frozen`` or with ``lora``, whose adapters
            are float32, else the default dtype.
        attention: ``auto``, ``sdpa``, ``flash_attn`` or ``eager``.
        window_size: Side of attention windows in patches, one for all blocks or one per block;
            0 is global.
        global_blocks: Blocks that stay global where ``window_size`` is a single number.
        window_padding: ``masked``, or ``zeros``: windows over the edge attend to zero keys too, as
            in the authors' windowed variants.
        grad_checkpointing: Recompute blocks in the backward pass instead of storing activations.
        init_cfg: ``dict(type='Pretrained', checkpoint=SOURCE)`` loads any published layout.

    Raises:
        ValueError: Fields that do not fit together, or a block that the encoder does not have.

    Source:
        InternVL, https://arxiv.org/abs/2312.14238.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = '300m-448px-v2-5',
        out_indices: int | Sequence[int] = -1,
        *,
        patch_size: int | None = None,
        img_size: int | None = None,
        drop_path_rate: float | None = None,
        frozen: bool = False,
        frozen_stages: int = -1,
        lora: dict[str, Any] | None = None,
        dtype: torch.dtype | str | None = None,
        attention: str = 'auto',
        window_size: int | Sequence[int] = 0,
        global_blocks: Sequence[int] = (),
        window_padding: str = 'masked',
        grad_checkpointing: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = get_arch(
            arch, patch_size=patch_size, img_size=img_size, drop_path_rate=drop_path_rate
        )
        self.embed_dim = self.arch.embed_dim
        self.patch_size = self.arch.patch_size
        self.num_prefix_tokens = self.arch.num_prefix_tokens
        self.out_indices = resolve_indices('out_indices', out_indices, self.arch.depth)
        self.frozen = frozen
        self.frozen_stages = self.arch.depth if frozen else frozen_stages
        if not -1 <= frozen_stages <= self.arch.depth:
            raise ValueError(
                f'frozen_stages={frozen_stages} is not in -1 .. {self.arch.depth} '
                '(-1 trains everything, 0 freezes the stem, k the first k blocks too).'
            )
        self.lora = resolve_lora(lora)
        if frozen and self.lora:
            raise ValueError('frozen=True and lora exclude each other: with lora, adapters train.')
        self.grad_checkpointing = grad_checkpointing
        self.load_report: LoadReport | None = None
        windows = resolve_windows(window_size, global_blocks, self.arch.depth)
        if window_padding not in ('masked', 'zeros'):
            raise ValueError(f"window_padding={window_padding!r} is not one of 'masked', 'zeros'.")
        self._build(resolve_dtype(dtype, frozen or lora is not None), windows, attention)
        for block in self.blocks:
            block.attn.mask_padding = window_padding == 'masked'
        self._freeze()

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **overrides: Any) -> 'InternViT':
        """Build an encoder from a checkpoint in any published layout.

        Args:
            source: Directory, file, hub id or name of a published encoder.
            overrides: Arguments of the class, or fields of ``arch`` that the file cannot tell
                (``num_heads`` of an unpublished size) or that should differ (``depth``).

        Returns:
            The encoder in eval mode, on the default device.

        Raises:
            FileNotFoundError: Nothing at ``source``.
            ValueError: The file is broken or is not an InternViT.
        """
        known = {'img_size', 'patch_size', 'drop_path_rate'}
        fields = {k: overrides.pop(k) for k in list(overrides) if k in Arch.__dataclass_fields__}
        of_file = {k: v for k, v in fields.items() if k not in known}
        found = open_checkpoint(source, of_file or None)
        half = bool(overrides.get('frozen')) or overrides.get('lora') is not None
        dtype = resolve_dtype(overrides.pop('dtype', None), half)
        with torch.device('meta'):
            encoder = cls(get_arch(found.arch, **fields), dtype=dtype, **overrides)
        encoder._load(found, dtype)
        encoder._is_init = True
        if (device := torch.get_default_device()).type != 'cpu':
            encoder.to(device)
        return encoder.eval()

    def _build(self, dtype: torch.dtype, windows: list[int], attention: str) -> None:
        """Lay the modules out without touching memory, then allocate and initialise them."""
        arch, target = self.arch, torch.get_default_device()
        # Plain numbers: no tensor is made, so this works on the meta device.
        rates = [arch.drop_path_rate * i / max(arch.depth - 1, 1) for i in range(arch.depth)]
        with torch.device('meta'):
            self.patch_embed = PatchEmbed(arch)
            if arch.num_prefix_tokens:
                self.cls_token = nn.Parameter(torch.empty(1, 1, arch.embed_dim))
            num_positions = arch.num_prefix_tokens + arch.grid_size**2
            self.pos_embed = nn.Parameter(torch.empty(1, num_positions, arch.embed_dim))
            self.blocks = nn.ModuleList(
                Block(arch, rate, attention, window)
                for rate, window in zip(rates, windows, strict=True)
            )
            self.to(dtype)
            if self.lora:
                blocks = range(max(self.frozen_stages, 0), self.out_indices[-1] + 1)
                add_adapters(self, self.lora, blocks)
        # Weights that a checkpoint will bring are left unwritten; `forward` refuses to use them.
        self._weights_pending = bool(self._pretrained_source())
        if target.type != 'meta':
            self.to_empty(device=target)
            if not self._weights_pending:
                self.reset_parameters()
            elif self.lora:
                reset_adapters(self)

    def drop_class_token(self) -> 'InternViT':
        """Take the class token and its position out, in place; the patches' stay as they are."""
        if self.num_prefix_tokens:
            rows = self.pos_embed.detach()[:, self.num_prefix_tokens :].clone()
            self.pos_embed = nn.Parameter(rows, requires_grad=self.pos_embed.requires_grad)
            del self.cls_token
            self.num_prefix_tokens = 0
            self.arch = get_arch(self.arch, num_prefix_tokens=0)
            for block in self.blocks:
                block.attn.num_prefix_tokens = 0
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random start: truncated normal (std 0.02), zero biases, unit norms, the arch's scale."""
        for name, module in self.named_modules():
            if isinstance(module, FusedLinear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
            elif name.endswith(('.ls1', '.ls2')):
                nn.init.constant_(module.gamma, module.init)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.num_prefix_tokens:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.lora:
            reset_adapters(self)

    def _pretrained_source(self) -> str:
        cfg = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        return cfg.get('checkpoint', '') if cfg.get('type') == 'Pretrained' else ''

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names. Weights that are there already are never overwritten."""
        if self._weights_pending:
            found = open_checkpoint(self._pretrained_source(), {'num_heads': self.arch.num_heads})
            self._load(found)
            print_log(f'InternViT: {self.load_report.summary()}', 'current')
        self._is_init = True

    def _load(self, found: Checkpoint, dtype: torch.dtype | None = None) -> None:
        self.load_report = load_encoder(self, found, dtype=dtype)
        self._weights_pending = False
        if self.lora:
            reset_adapters(self)

    def apply(self, fn: Callable[[nn.Module], None]) -> 'InternViT':
        """Like ``nn.Module.apply``, but an enclosing model's ``init_cfg`` spares loaded weights."""
        if (self.load_report is not None or self.lora) and fn.__module__ == weight_init.__name__:
            return self
        return super().apply(fn)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if self.lora:
            accept_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}pos_embed' in state_dict:
            self._weights_pending = False

    def _freeze(self) -> None:
        """Take from the optimizer what is frozen and what no output depends on."""
        if self.frozen:
            self.requires_grad_(False)
            self.eval()
            return
        if self.lora:  # which has left the gradient to its adapters
            self.train(self.training)
            return
        if self.frozen_stages >= 0:
            for part in ('patch_embed', 'pos_embed', 'cls_token'):
                if hasattr(self, part):
                    getattr(self, part).requires_grad_(False)
        for i, block in enumerate(self.blocks):
            if i < self.frozen_stages or i > self.out_indices[-1]:
                block.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'InternViT':
        """Like ``nn.Module.train``, except that frozen parts stay in eval mode."""
        super().train(mode and not self.frozen)
        for block in self.blocks[: max(self.frozen_stages, 0)]:
            block.eval()
        return self

    def output_spec(self) -> list[FeatureSpec]:
        """Channels and stride of every map that ``forward`` returns."""
        return [FeatureSpec(self.embed_dim, self.patch_size)] * len(self.out_indices)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates, as in mmpretrain.

        Args:
            param_name: Full name, such as ``backbone.blocks.3.norm1.weight``.
            prefix: What stands before the encoder's own names, such as ``backbone.``.

        Returns:
            The depth (0 for the stem, i + 1 for block i, and the last for anything else) and the
            number of depths, ``depth + 2``.
        """
        num_layers = self.arch.depth + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        if name in ('pos_embed', 'cls_token') or name.startswith('patch_embed.'):
            return 0, num_layers
        return num_layers - 1, num_layers

    def stem(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches, class token and positions: (B, 3, H, W) -> (B, K + N, D) and the grid."""
        if self._weights_pending:
            raise ValueError(
                f'The weights of {self._pretrained_source()!r} were never loaded: call '
                'init_weights() (Runner.train does) or load a checkpoint first.'
            )
        H, W = x.shape[-2:]
        P = self.patch_size
        if H % P or W % P or not (H and W):
            fit = 'x'.join(str(max(round(side / P), 1) * P) for side in (H, W))
            raise ValueError(
                f'An input of {H}x{W} is not a multiple of patch_size={P}; nearest that fits: '
                f'{fit} (data_preprocessor=dict(size_divisor={P}) pads).'
            )
        grid = (H // P, W // P)
        with torch.no_grad() if self.frozen_stages >= 0 else nullcontext():
            tokens = self.patch_embed(x.to(self.patch_embed.proj.weight.dtype))
            if self.num_prefix_tokens:
                tokens = torch.cat(
                    [self.cls_token.expand(x.shape[0], -1, -1).to(tokens), tokens], dim=1
                )
            positions = resample_positions(self.pos_embed, grid, self.num_prefix_tokens)
            return tokens + positions.to(tokens), grid

    def run_blocks(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        start: int = 0,
        stop: int | None = None,
        *,
        through: bool = False,
    ) -> Iterator[Tensor]:
        """Run blocks ``start`` to ``stop - 1`` and yield the tokens after each."""
        for i in range(start, self.arch.depth if stop is None else stop):
            tokens = self.run_block(i, tokens, grid, through=through)
            yield tokens

    def run_block(
        self,
        index: int,
        tokens: Tensor,
        grid: tuple[int, int],
        mask: Tensor | None = None,
        *,
        through: bool = False,
    ) -> Tensor:
        """Run one block, see :class:`mmdet_seg.backbones.layers.Block`.

        With ``through``, gradients pass through a frozen block to ``tokens``, in which something
        that trains had a hand; never to the frozen weights.
        """
        block = self.blocks[index]
        # A frozen block is in eval mode; what passes through it is recomputed all the same.
        again = self.grad_checkpointing and (self.training or through)
        with torch.no_grad() if index < self.frozen_stages and not through else nullcontext():
            if again and torch.is_grad_enabled():
                return recompute(block, tokens, grid, mask, use_reentrant=False)
            return block(tokens, grid, mask)

    def _states(self, x: Tensor, stop: int) -> Iterator[tuple[int, Tensor, tuple[int, int]]]:
        """Index, tokens and grid after each block, in the precision of the weights."""
        embedded, grid = self.stem(x)
        for i, tokens in enumerate(self.run_blocks(embedded, grid, stop=stop)):
            yield i, tokens, grid

    def precision(self, x: Tensor) -> torch.autocast | nullcontext:
        """Context to run in for images ``x``: a frozen encoder computes in its weights' dtype."""
        # Autocast would cast a frozen encoder's weights anew at every call.
        own = self.frozen or (self.lora and self.pos_embed.dtype != x.dtype)
        if not own or torch.compiler.is_exporting():  # what is exported has one precision
            return nullcontext()
        return torch.autocast(x.device.type, enabled=False)

    def forward_features(self, x: Tensor) -> Tensor:
        """All blocks, no final norm: (B, 3, H, W) -> (B, K + N, D), class token first."""
        with self.precision(x):
            _, tokens, _ = deque(self._states(x, self.arch.depth), maxlen=1).pop()
            return tokens.to(x.dtype)

    def forward(self, x: Tensor, stem_only: bool = False) -> tuple[Any, ...]:
        """Maps of the blocks in ``out_indices``: (B, 3, H, W) -> tuple of (B, D, h, w).

        With ``stem_only``, what :meth:`stem` returns: whoever runs the blocks by himself calls the
        module all the same, because that is when shards of its own parameters are gathered.
        """
        outs = []
        with self.precision(x):
            if stem_only:
                return self.stem(x)
            for i, tokens, grid in self._states(x, self.out_indices[-1] + 1):
                if i in self.out_indices:
                    maps = tokens[:, self.num_prefix_tokens :].to(x.dtype).contiguous()
                    outs.append(maps.unflatten(1, grid).permute(0, 3, 1, 2))
        return tuple(outs)
