"""Heads of classification on a frozen encoder's features, and how the tokens become one vector.

Shapes: B images, K prefix tokens, N patches, D channels, F features of a head, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmdet_seg.heads.attention_pooling import AttentionPooling
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm
from mmdet_seg.probes.frozen_encoder import LayerFeatures

# What a head reads of its layers. The last two have weights and read all tokens of one layer.
POOLINGS = ('class', 'mean', 'cls_patch_concat', 'attention_pooling', 'clip_projector')
WITH_WEIGHTS = ('attention_pooling', 'clip_projector')
NORMS = ('bn', 'none')
CLIP_HEADS = 16  # of the published clip projector
_EPS = 1e-6


class Pooled(NamedTuple):
    """One layer of some images in float32.

    Attributes:
        token: (B, D) class token; None where the encoder has no prefix.
        mean: (B, D) of the patches.
    """

    token: Tensor | None
    mean: Tensor


def pool(features: LayerFeatures) -> Pooled:
    """Class token and mean of the patches (not of the registers)."""
    token = features.prefix[:, 0].float() if features.prefix.shape[1] else None
    return Pooled(token, features.patches.flatten(2).mean(2, dtype=torch.float32))


def all_tokens(features: LayerFeatures) -> Tensor:
    """(B, K + N, D) in the encoder's precision."""
    return torch.cat([features.prefix, features.patches.flatten(2).transpose(1, 2)], dim=1)


def joined(pooled: Mapping[int, Pooled], layers: Sequence[int], pooling: str) -> Tensor:
    """What a head without weights of its own reads: (B, F).

    ``class`` joins the class tokens of ``layers``, ``mean`` their mean patches, and
    ``cls_patch_concat`` the class tokens and the mean patch of the last of them, as DINOv2's probe
    does. Of an encoder without class token, ``cls_patch_concat`` is the last layer's mean patch.
    """
    if pooling == 'mean':
        return torch.cat([pooled[layer].mean for layer in layers], dim=1)
    parts = [pooled[layer].token for layer in layers]
    if pooling == 'cls_patch_concat':
        parts = [t for t in parts if t is not None] + [pooled[layers[-1]].mean]
    return torch.cat(parts, dim=1)


def num_features(embed_dim: int, num_layers: int, pooling: str, has_class_token: bool) -> int:
    """F of what :func:`joined` makes.

    Raises:
        ValueError: ``class`` of an encoder that has no class token.
    """
    if pooling == 'class' and not has_class_token:
        raise ValueError(
            "pooling 'class' needs a class token and this encoder has none: take 'mean'."
        )
    if pooling == 'cls_patch_concat':
        return embed_dim * (num_layers * has_class_token + 1)
    return embed_dim * num_layers


class ClassificationHead(nn.Module):
    """Batch norm and a linear layer on pooled tokens; its names are those of the authors' files.

    Shapes::

        x  (B, F), or (B, K + N, D) where ``pooling`` has weights -> (B, C)

    Args:
        in_features: F, or D where ``pooling`` has weights.
        num_classes: C.
        pooling: One of :data:`POOLINGS`.
        norm: ``bn`` over the batches of all processes (eps 1e-6), or ``none``. Features of the
            large encoders without it teach nothing: the published log is stuck at a loss of 6.9.
        num_heads: Of a pooling with weights.
        pooled_dim: What the clip projector makes of D channels.

    Raises:
        ValueError: An unknown pooling or norm, or heads that do not divide the channels.

    Source:
        OpenGVLab/InternVL, ``classification``: weights N(0, 0.01), biases 0.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pooling: str = 'cls_patch_concat',
        norm: str = 'bn',
        *,
        num_heads: int = 1,
        pooled_dim: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f'pooling {pooling!r} is none of {", ".join(POOLINGS)}.')
        if norm not in NORMS:
            raise ValueError(f'norm {norm!r} is none of {", ".join(NORMS)}.')
        self.pooling = pooling
        width = in_features
        if pooling == 'attention_pooling':
            self.attn_pooling = AttentionPooling(in_features, num_heads)
            self._reset(self.attn_pooling)
        elif pooling == 'clip_projector':
            width = pooled_dim or in_features
            self.clip_projector = AttentionPooling(in_features, num_heads, width)
            self.clip_projector.requires_grad_(False)
        self.norm = SyncBatchNorm(width, eps=_EPS) if norm == 'bn' else nn.Identity()
        self.head = nn.Linear(width, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def _reset(module: nn.Module) -> None:
        for part in module.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, F) that the norm reads."""
        if self.pooling == 'attention_pooling':
            return self.attn_pooling(x)
        return self.clip_projector(x) if self.pooling == 'clip_projector' else x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.pooled(x.float())))
