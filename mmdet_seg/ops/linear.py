"""Linear layers on CPU through oneDNN, with GELU in the same pass.

PyTorch sends fp32 matrix products to MKL, which on AMD processors runs at about 70% of oneDNN's
rate; oneDNN also applies GELU while the product is still in cache. Its operator has no backward, so
it serves inference; everything else takes the ordinary functions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)


def _fused_ok(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or x.device.type != 'cpu' or x.dtype not in _DTYPES:
        return False
    if weight.dtype != x.dtype or torch.is_autocast_enabled('cpu'):
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    if any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return False  # quantised and distributed tensor subclasses bring their own linear
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """``x @ weight.T + bias``, then GELU (erf) if asked.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        gelu: Apply GELU to the result.

    Returns:
        (..., out).
    """
    if _fused_ok(x, weight, bias):
        post, algorithm = ('gelu', 'none') if gelu else ('none', '')
        # Strided views cost oneDNN more than the copy.
        x = x if x.is_contiguous() else x.contiguous()
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, post, [], algorithm)
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out
