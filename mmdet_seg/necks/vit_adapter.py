"""ViT-Adapter: a convolutional branch beside the encoder, and both learn from each other.

Shapes: B batch, (H, W) pixels, P patch side, K prefix tokens, N patch tokens, C adapter tokens, D
channels.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from mmdet_seg.backbones import Arch, FeatureSpec, InternViT
from mmdet_seg.necks.adapter_checkpoint import load_adapter, rename_in_place
from mmdet_seg.necks.adapter_layers import DeformAttention, Interaction, Places
from mmdet_seg.necks.block_groups import resolve_groups
from mmdet_seg.necks.spatial_prior import STRIDES, SpatialPrior, map_norm
from mmdet_seg.registry import MODELS, register_everywhere

_EPS = {'layer': 1e-5, 'sync_bn': 1e-6}  # of the token norms that belong to a norm of maps
_VIT_FEATURES = ('last', 'each', None)


@register_everywhere
class ViTAdapter(BaseModule):
    """An encoder and its adapter, in the place of a backbone: four maps at strides 4 to 32.

    The blocks run in groups. Before a group an injector adds what the adapter knows to the patch
    tokens, after it an extractor adds what the blocks know to the adapter's. As published by
    InternVL (``norm='layer'``) or in the original (``norm='sync_bn', vit_feature='each'``).

    Gradients pass through a frozen encoder to what was injected, not to its weights and not below
    the first injector. With ``injection=False`` nothing passes: a frozen encoder then runs as it
    does alone, without a graph and in its own precision.

    Shapes::

        x        (B, 3, H, W)  any size; what is not a multiple of P is padded and cut off again
        outs[i]  (B, D, ceil(H / s), ceil(W / s)) for the strides s = 4, 8, 16, 32

    Args:
        encoder: An :class:`InternViT` or its config. Published is ``patch_size=16``; another one
            is kept, and places and sizes are matched by pixels.
        interaction_indexes: First and last block of every group; None makes ``num_interactions``
            groups of a length as equal as whole blocks allow, see :func:`block_groups.even_groups`.
        num_interactions: Number of groups.
        injection: Run injectors; without, the adapter only reads the encoder.
        class_token: Keep the encoder's class token beside the patch tokens; without, it and its
            position are taken out of the encoder, as in both published forms.
        norm: Of maps: ``layer``, or ``sync_bn`` (over the processes' batches).
        norm_eps: Of the token norms; None is what was published with ``norm``.
        conv_inplane: Channels of the convolutional stem.
        n_points: Sampling points of a head on a level.
        deform_num_heads: Heads of deformable attention; None is the encoder's, as published.
        deform_ratio: Channels of its values over D: published 1 below 768 channels, 0.5 from
            there, 0.25 for 6B.
        with_cffn: Give extractors a feed-forward with a depth-wise convolution.
        cffn_ratio: Its hidden channels over D.
        init_values: Start of the injectors' scale; at 0 the encoder starts as it is.
        use_extra_extractor: Two further extractors after the last group.
        vit_feature: Maps of the encoder that are added to the outputs: ``last`` (of the last group,
            to all), ``each`` (of each of four groups, to one each), None.
        final_norm: Normalise the outputs.
        out_indices: Which of the four maps to return, ascending.
        drop_path_rate: Of the feed-forwards; None is the encoder's.
        grad_checkpointing: Recompute injectors, extractors and blocks in the backward pass; None
            is the encoder's.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` loads encoder and adapter from a
            checkpoint of the original ViT-Adapter, of InternViT-Adapter or of this class.

    Raises:
        ValueError: Groups that the encoder does not have, or values that do not fit together.

    Source:
        https://arxiv.org/abs/2205.08534; OpenGVLab/InternVL-MMDetSeg for InternViT.
    """

    def __init__(
        self,
        encoder: InternViT | dict[str, Any],
        *,
        interaction_indexes: Sequence[Sequence[int]] | None = None,
        num_interactions: int = 4,
        injection: bool = True,
        class_token: bool = False,
        norm: str = 'layer',
        norm_eps: float | None = None,
        conv_inplane: int = 64,
        n_points: int = 4,
        deform_num_heads: int | None = None,
        deform_ratio: float = 0.5,
        with_cffn: bool = True,
        cffn_ratio: float = 0.25,
        init_values: float = 0.0,
        use_extra_extractor: bool = True,
        vit_feature: str | None = 'last',
        final_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float | None = None,
        grad_checkpointing: bool | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        make_norm = map_norm(norm)
        if not isinstance(encoder, nn.Module):
            encoder = MODELS.build({'type': InternViT, **encoder})
        self.encoder: InternViT = encoder if class_token else encoder.drop_class_token()
        arch = self.encoder.arch
        D = self.embed_dim = arch.embed_dim
        self.patch_size = arch.patch_size
        self.groups = resolve_groups(interaction_indexes, num_interactions, arch.depth)
        for block in self.encoder.blocks[self.groups[-1][1] + 1 :]:
            block.requires_grad_(False)  # no output depends on it
        if grad_checkpointing is not None:
            self.encoder.grad_checkpointing = grad_checkpointing
        self.injection, self.grad_checkpointing = injection, self.encoder.grad_checkpointing
        self.out_indices = _resolve_outputs(out_indices)
        if vit_feature not in _VIT_FEATURES:
            raise ValueError(f"vit_feature={vit_feature!r} is not one of 'last', 'each', None.")
        if vit_feature == 'each' and len(self.groups) != len(STRIDES):
            raise ValueError(
                f"vit_feature='each' takes one map from each of {len(STRIDES)} groups, and there "
                f"are {len(self.groups)}: use vit_feature='last'."
            )
        self.vit_feature = vit_feature

        self.spm = SpatialPrior(conv_inplane, D, make_norm, finest=0 in self.out_indices)
        self.level_embed = nn.Parameter(torch.empty(len(STRIDES) - 1, D))
        heads = arch.num_heads if deform_num_heads is None else deform_num_heads
        self.interactions = nn.ModuleList(
            Interaction(
                D,
                num_levels=len(STRIDES) - 1,
                attention=(heads, n_points, deform_ratio),
                eps=_EPS[norm] if norm_eps is None else norm_eps,
                cffn_ratio=cffn_ratio if with_cffn else 0.0,
                drop_path=arch.drop_path_rate if drop_path_rate is None else drop_path_rate,
                gamma=init_values if injection else None,
                num_extra=2 if use_extra_extractor and i == len(self.groups) - 1 else 0,
            )
            for i in range(len(self.groups))
        )
        if 0 in self.out_indices:
            self.up = nn.ConvTranspose2d(D, D, 2, 2)
        for i in self.out_indices:
            setattr(self, f'norm{i + 1}', make_norm(D) if final_norm else nn.Identity())
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random start of the adapter; the encoder stays as it is."""
        nn.init.normal_(self.level_embed)
        own = [m for name, m in self.named_modules() if not name.startswith('encoder')]
        for module in own:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in own:  # after the linear layers that it holds
            if isinstance(module, DeformAttention):
                module.reset_parameters()

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names here and in the encoder; nothing else is overwritten."""
        if not self._is_init:
            if self.init_cfg:
                load_adapter(self, self.init_cfg['checkpoint'])
            else:
                self.encoder.init_weights()
            self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        rename_in_place(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def arch(self) -> Arch:
        """The encoder's shape."""
        return self.encoder.arch

    @property
    def blocks(self) -> nn.ModuleList:
        """The encoder's blocks."""
        return self.encoder.blocks

    def output_spec(self) -> list[FeatureSpec]:
        """Channels and stride of every map that ``forward`` returns."""
        return [FeatureSpec(self.embed_dim, STRIDES[i]) for i in self.out_indices]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates, see :meth:`InternViT.get_layer_depth`.

        The adapter's own parameters have the full rate.
        """
        return self.encoder.get_layer_depth(param_name, f'{prefix}encoder.')

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the strides in ``out_indices``: (B, 3, H, W) -> tuple of (B, D, h, w)."""
        image = pad_to_multiple(x, self.patch_size)
        finest, c, places = self.prior(image)
        kept = len(STRIDES) if self.vit_feature == 'each' else 1
        states = deque(self.interact(image, c, places), maxlen=kept)
        c = states[-1][1]
        levels = c.transpose(1, 2).split([h * w for h, w in places.sizes], dim=2)
        maps = [t.unflatten(2, size) for t, size in zip(levels, places.sizes, strict=True)]
        if finest is not None:
            h, w = finest.shape[2:]
            finest = self.up(maps[0])[:, :, :h, :w] + finest
        outs = []
        for i in self.out_indices:
            out = finest if i == 0 else maps[i - 1]
            if self.vit_feature is not None:
                tokens = states[i if self.vit_feature == 'each' else -1][0]
                tokens = tokens[:, self.encoder.num_prefix_tokens :].to(out.dtype)
                out = out + F.interpolate(
                    tokens.transpose(1, 2).unflatten(2, places.grid),
                    size=out.shape[2:],
                    mode='bilinear',
                    align_corners=False,
                )
            out = getattr(self, f'norm{i + 1}')(out)
            # Rounded up without negative numbers, which ONNX divides otherwise.
            h, w = ((side + STRIDES[i] - 1) // STRIDES[i] for side in x.shape[2:])
            outs.append(out[:, :, :h, :w].to(x.dtype))
        return tuple(outs)

    def prior(self, image: Tensor) -> tuple[Tensor | None, Tensor, Places]:
        """What the convolutions see.

        Args:
            image: (B, 3, H, W), H and W multiples of P.

        Returns:
            The map of stride 4 (None where it is not wanted), the tokens (B, C, D), and where these
            and the encoder's are.
        """
        finest, maps = self.spm(image)
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        embeds = self.level_embed.unbind()
        c = [m.flatten(2).transpose(1, 2) + e for m, e in zip(maps, embeds, strict=True)]
        grid = (image.shape[2] // self.patch_size, image.shape[3] // self.patch_size)
        places = Places.of(sizes, STRIDES[1:], grid, self.patch_size, image)
        return finest, torch.cat(c, dim=1), places

    def interact(self, image: Tensor, c: Tensor, places: Places) -> Iterator[tuple[Tensor, Tensor]]:
        """Run all groups and yield the encoder's and the adapter's tokens after each.

        Args:
            image: (B, 3, H, W).
            c: (B, C, D).
            places: From :meth:`prior`.

        Yields:
            (B, K + N, D) in the encoder's precision, and (B, C, D).
        """
        K = self.encoder.num_prefix_tokens
        x, grid = self.encoder(image, stem_only=True)
        for (first, last), interaction in zip(self.groups, self.interactions, strict=True):
            if self.injection:
                patches = self._run(interaction.injector, x[:, K:].to(c.dtype), c, places)
                x = torch.cat([x[:, :K].to(c.dtype), patches], dim=1) if K else patches
            with self.encoder.precision(image):
                if not torch.is_autocast_enabled(image.device.type):
                    x = x.to(self.encoder.pos_embed.dtype)
                run = self.encoder.run_blocks(x, grid, first, last + 1, through=self.injection)
                x = deque(run, maxlen=1).pop()
            for extractor in interaction.extractors():
                c = self._run(extractor, c, x[:, K:].to(c.dtype), places)
            yield x, c

    def _run(self, module: nn.Module, *args: Any) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return recompute(module, *args, use_reentrant=False)
        return module(*args)


def pad_to_multiple(x: Tensor, side: int) -> Tensor:
    """Zeros at the right and bottom: (B, 3, H, W) to the next multiples of ``side``."""
    h, w = (-x.shape[i] % side for i in (2, 3))
    return F.pad(x, (0, w, 0, h)) if h or w else x


def _resolve_outputs(indices: Sequence[int]) -> tuple[int, ...]:
    found = tuple(indices)
    if not found or list(found) != sorted(set(found) & set(range(len(STRIDES)))):
        raise ValueError(
            f'out_indices={list(found)} are not ascending numbers of maps, 0 .. {len(STRIDES) - 1}.'
        )
    return found
