"""The one door to every attention kernel.

Shapes: B batch, H heads, N tokens (M where the queries are others than the keys), d channels of a
head.

Which kernel is fastest depends on the machine. On CPU in bf16 ``scaled_dot_product_attention`` runs
below half the rate of the plain matrix products that it is made of, so ``auto`` takes products over
a few heads at a time there (``eager``). With gradients that means storing the (N, N) weights: it
does so while they are small and keeps the fused kernel beyond.
"""

import importlib.util

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

BACKENDS = ('auto', 'sdpa', 'flash_attn', 'eager')
# Scores of the heads that are computed together: enough to fill small matrices, few enough to stay
# in a core's cache. Measured flat from 2 to 8 MiB.
_SCORE_BYTES = 4 << 20
# Attention weights of one layer that may be stored for the backward pass.
_STORED_BYTES = 16 << 20
_logged: set[tuple[str, str, str]] = set()


def check_backend(backend: str) -> str:
    """Return ``backend`` if it can be used here.

    Raises:
        ValueError: Not one of :data:`BACKENDS`, or its package is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f'attention={backend!r} is not one of {", ".join(BACKENDS)}.')
    if backend == 'flash_attn' and importlib.util.find_spec('flash_attn') is None:
        raise ValueError(
            "attention='flash_attn' needs the package flash-attn: pip install mmdet_seg[flash], "
            "or use attention='auto'."
        )
    return backend


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    backend: str = 'auto',
    key_mask: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Softmax attention, scaled by ``d ** -0.5``.

    Args:
        q: (B, H, M, d), any strides.
        k: (B, H, N, d).
        v: (B, H, N, d).
        backend: One of :data:`BACKENDS`.
        key_mask: (B, N) bool, False where a key is padding. Every row needs one True.
        mask: (B, M, N) bool instead, False where a query does not see a key, the same for all
            heads. Every row needs one True.

    Returns:
        (B, M, H, d), contiguous: the layout that the output projection reads.

    Raises:
        ValueError: ``flash_attn`` with a mask, off CUDA or in fp32.
    """
    assert key_mask is None or mask is None
    if key_mask is not None:
        mask = key_mask[:, None]
    mask = None if mask is None else mask[:, None]  # (B, 1, 1 or M, N)
    if backend == 'auto':
        backend = _choose(q, k, v)
    if backend == 'flash_attn':
        return _flash(q, k, v, mask)
    if backend == 'eager':
        return _eager(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).contiguous()


def _needs_grad(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)


def _weights_bytes(q: Tensor, k: Tensor) -> int:
    return q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()


def _choose(q: Tensor, k: Tensor, v: Tensor) -> str:
    half = q.dtype in (torch.bfloat16, torch.float16)
    fits = not _needs_grad(q, k, v) or _weights_bytes(q, k) <= _STORED_BYTES
    name = 'eager' if q.device.type == 'cpu' and half and fits else 'sdpa'
    if not torch.compiler.is_compiling():
        choice = (q.device.type, str(q.dtype).removeprefix('torch.'), name)
        if choice not in _logged:
            _logged.add(choice)
            print_log('attention=auto on {} in {}: {}'.format(*choice), 'current')
    return name


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    B, H, M, d = q.shape
    N = k.shape[2]
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
        bias = bias.masked_fill_(~mask, float('-inf'))
    q = q * d**-0.5
    # A graph that is compiled or exported must not depend on N.
    whole = torch.compiler.is_compiling() or _needs_grad(q, k, v)
    step = B * H if whole else max(1, _SCORE_BYTES // max(1, M * N * q.element_size()))
    if step >= B * H:
        scores = q @ k.transpose(-1, -2)  # (B, H, M, N)
        if bias is not None:
            scores = scores + bias
        return (scores.softmax(-1) @ v).transpose(1, 2).contiguous()

    q, k, v = (t.reshape(B * H, -1, d) for t in (q, k, v))
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for start in range(0, B * H, step):
        part = slice(start, min(start + step, B * H))
        scores = torch.bmm(q[part], k[part].transpose(1, 2))  # (step, M, N)
        if bias is not None:
            images = torch.arange(part.start, part.stop, device=q.device) // H
            scores += bias[images, 0]
        torch.bmm(torch.softmax(scores, -1), v[part], out=out[part])
    return out.view(B, H, M, d).transpose(1, 2).contiguous()


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        raise ValueError(
            "attention='flash_attn' has no key mask, which windows that do not divide the grid and "
            "masked queries need: use attention='sdpa'."
        )
    if q.device.type != 'cuda' or q.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"attention='flash_attn' needs CUDA and fp16 or bf16, not {q.device.type} "
            f"{str(q.dtype).removeprefix('torch.')}: use attention='auto'."
        )
    from flash_attn import flash_attn_func

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
