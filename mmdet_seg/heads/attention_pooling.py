"""Pooling of all tokens into one vector by attention.

Shapes: B batch, N tokens (prefix and patches), D channels, E channels of the result.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet_seg.ops.attention import attention


class AttentionPooling(nn.Module):
    """One query, the mean of all tokens, looks at all tokens; no residual, no MLP.

    Queries, keys and values have layer norms of their own (eps 1e-5). The parameters are named as
    in the authors' checkpoints.

    Shapes::

        tokens  (B, N, D) -> (B, E)

    Args:
        embed_dim: D.
        num_heads: Heads; D is a multiple of it.
        out_dim: E; None is D.

    Raises:
        ValueError: D is no multiple of ``num_heads``.

    Source:
        ``AttentionPoolingBlock`` of OpenGVLab/InternVL's ``classification``.
    """

    def __init__(self, embed_dim: int, num_heads: int, out_dim: int | None = None) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f'{num_heads} heads do not divide the {embed_dim} channels of the tokens; '
                'give a number that does.'
            )
        self.norm1_q = nn.LayerNorm(embed_dim, eps=1e-5)
        self.norm1_k = nn.LayerNorm(embed_dim, eps=1e-5)
        self.norm1_v = nn.LayerNorm(embed_dim, eps=1e-5)
        self.cross_attn = _CrossAttention(embed_dim, num_heads, out_dim or embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        mean = tokens.mean(1, keepdim=True)
        pooled = self.cross_attn(self.norm1_q(mean), self.norm1_k(tokens), self.norm1_v(tokens))
        return pooled.squeeze(1)


class _CrossAttention(nn.Module):
    """The biases are parameters beside bias-free layers, as the authors stored them."""

    def __init__(self, embed_dim: int, num_heads: int, out_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        for name in 'qkv':
            setattr(self, name, nn.Linear(embed_dim, embed_dim, bias=False))
            setattr(self, f'{name}_bias', nn.Parameter(torch.zeros(embed_dim)))
        self.proj = nn.Linear(embed_dim, out_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = F.linear(q, self.q.weight, self.q_bias)
        k = F.linear(k, self.k.weight, self.k_bias)
        v = F.linear(v, self.v.weight, self.v_bias)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.proj(attention(q, k, v).flatten(2))
