"""The parts of an InternViT block. Parameter names are those of the authors' ``.pth`` files.

Shapes: B batch, K prefix tokens, N patch tokens, D channels, P patch side, (h, w) grid, H heads,
d channels of a head, M hidden channels of the MLP.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmdet_seg.backbones.variants import Arch
from mmdet_seg.backbones.windows import merge, partition
from mmdet_seg.ops.attention import attention, check_backend
from mmdet_seg.ops.linear import linear


class FusedLinear(nn.Linear):
    """``nn.Linear`` through :func:`mmdet_seg.ops.linear.linear`: (..., in) -> (..., out).

    The parts below call it as a module, so that hooks run and a layer around it (LoRA) counts.
    """

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        return linear(x, self.weight, self.bias, gelu=gelu)


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one linear map: (B, 3, H, W) -> (B, N, D), row-major."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        # Holds the parameters in the published shape (D, 3, P, P); the product is a linear one.
        self.proj = nn.Conv2d(3, arch.embed_dim, arch.patch_size, arch.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        P = self.proj.kernel_size[0]
        B, C, H, W = x.shape
        patches = x.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(B, (H // P) * (W // P), C * P * P)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection and optional QK-norm over all heads."""

    def __init__(self, arch: Arch, backend: str, window: int) -> None:
        super().__init__()
        D = arch.embed_dim
        self.num_heads = arch.num_heads
        self.num_prefix_tokens = arch.num_prefix_tokens
        self.backend = check_backend(backend)
        self.window = window
        self.mask_padding = True
        self.qkv = FusedLinear(D, 3 * D, bias=arch.qkv_bias)
        # RMS over the full width, also where the blocks' own norm is LayerNorm.
        self.q_norm = nn.RMSNorm(D, eps=arch.norm_eps) if arch.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(D, eps=arch.norm_eps) if arch.qk_norm else nn.Identity()
        self.proj = FusedLinear(D, D)

    def forward(self, x: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, K+N, D)
        q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        # A window that covers the grid is global attention: exported, so for every size.
        if self.window and (torch.compiler.is_exporting() or max(grid) > self.window):
            where = (grid, self.window, self.num_prefix_tokens)
            (q, padding), (k, _), (v, _) = (partition(t, *where) for t in (q, k, v))
            padding = padding if self.mask_padding else None
            out = merge(attention(q, k, v, backend=self.backend, key_mask=padding), *where)
        elif mask is not None:
            # Rows that see everything keep the fast kernel, which takes no mask.
            Q = mask.shape[1]
            first = attention(q[:, :, :Q], k, v, backend=self.backend, mask=mask)
            rest = attention(q[:, :, Q:], k, v, backend=self.backend)
            out = torch.cat([first, rest], dim=1)
        else:
            out = attention(q, k, v, backend=self.backend)  # (B, K+N, H, d)
        return self.proj(out.flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (erf), linear."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.fc1 = FusedLinear(arch.embed_dim, arch.mlp_dim)
        self.fc2 = FusedLinear(arch.mlp_dim, arch.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        # A layer around fc1 adds to what goes into GELU.
        fused = isinstance(self.fc1, FusedLinear)
        return self.fc2(self.fc1(x, gelu=True) if fused else F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Holds the scale of a residual branch; :class:`Block` applies it while adding."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), init))


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled and added: (B, K+N, D) -> (B, K+N, D).

    Global blocks take any further tokens in front, and a mask (B, Q, K+N) of what the first Q
    tokens see.
    """

    def __init__(self, arch: Arch, drop_path: float, backend: str, window: int) -> None:
        super().__init__()
        norm = nn.RMSNorm if arch.norm == 'rms' else nn.LayerNorm
        self.norm1 = norm(arch.embed_dim, eps=arch.norm_eps)
        self.attn = Attention(arch, backend, window)
        self.ls1 = LayerScale(arch.embed_dim, arch.layer_scale_init)
        self.norm2 = norm(arch.embed_dim, eps=arch.norm_eps)
        self.mlp = Mlp(arch)
        self.ls2 = LayerScale(arch.embed_dim, arch.layer_scale_init)
        self.drop_path = StochasticDepth(drop_path, 'row') if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        x = torch.addcmul(x, self.drop_path(self.attn(self.norm1(x), grid, mask)), self.ls1.gamma)
        return torch.addcmul(x, self.drop_path(self.mlp(self.norm2(x))), self.ls2.gamma)
