"""mmcv's masked convolution: a convolution computed at some places only, for inference.

Shape letters: C channels, H x W the map, kh x kw the kernel, M places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the windows of ``im`` (1, C, H, W) at the places to ``col`` (C * kh * kw, M)."""
    padded = F.pad(im, (pad_w, pad_w, pad_h, pad_h))[0]
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]  # (kh, 1, M)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kw, M)
    col.copy_(padded[:, rows, columns].view(col.shape))


@torch.no_grad()
def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write ``col`` (C, M) to the places of ``im`` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
