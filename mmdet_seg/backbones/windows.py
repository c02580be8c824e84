"""Cutting a grid of tokens into windows for attention, and putting it together again.

Shapes: B batch, K prefix tokens, (h, w) grid, W window side, n windows per image, H heads,
d channels of a head.

Windows at the right and bottom are padded; the mask tells attention which keys are padding. Prefix
tokens attend in every window of their image and take the mean of the answers, so a window that
covers the grid gives global attention exactly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def partition(
    x: Tensor, grid: tuple[int, int], window: int, num_prefix_tokens: int
) -> tuple[Tensor, Tensor | None]:
    """Cut heads' tokens into windows.

    Args:
        x: (B, H, K + h*w, d).
        grid: (h, w).
        window: W.
        num_prefix_tokens: K.

    Returns:
        (B*n, H, K + W*W, d) and the key mask (B*n, K + W*W), None where nothing is padded.
    """
    B, H, _, d = x.shape
    h, w = grid
    K, W = num_prefix_tokens, window
    rows, cols = (h + W - 1) // W, (w + W - 1) // W  # not -(-h // W), which ONNX truncates
    pad_h, pad_w = rows * W - h, cols * W - w

    def cut(maps: Tensor) -> Tensor:  # (b, c, h, w, e) -> (b * n, c, W * W, e)
        b, c, _, _, e = maps.shape
        maps = F.pad(maps, (0, 0, 0, pad_w, 0, pad_h)).view(b, c, rows, W, cols, W, e)
        return maps.permute(0, 2, 4, 1, 3, 5, 6).reshape(b * rows * cols, c, W * W, e)

    windows = cut(x[:, :, K:].reshape(B, H, h, w, d))
    if K:
        prefix = x[:, None, :, :K].expand(B, rows * cols, H, K, d).flatten(0, 1)
        windows = torch.cat([prefix, windows], dim=2)
    if not torch.compiler.is_exporting() and not (pad_h or pad_w):
        return windows, None
    mask = cut(torch.ones(1, 1, h, w, 1, dtype=torch.uint8, device=x.device)).bool()  # (n,1,W*W,1)
    mask = F.pad(mask[:, 0, :, 0], (K, 0), value=True)
    return windows, mask.repeat(B, 1)


def merge(windows: Tensor, grid: tuple[int, int], window: int, num_prefix_tokens: int) -> Tensor:
    """Inverse of :func:`partition`: (B*n, K + W*W, H, d) -> (B, K + h*w, H, d)."""
    h, w = grid
    K, W = num_prefix_tokens, window
    rows, cols = (h + W - 1) // W, (w + W - 1) // W
    _, _, H, d = windows.shape
    x = windows[:, K:].view(-1, rows, cols, W, W, H, d).permute(0, 1, 3, 2, 4, 5, 6)
    x = x.reshape(-1, rows * W, cols * W, H, d)
    if torch.compiler.is_exporting():  # slices would ask whether anything is cut off
        kept = (torch.arange(side, device=x.device) for side in grid)
        x = x.index_select(1, next(kept)).index_select(2, next(kept)).flatten(1, 2)
    else:
        x = x[:, :h, :w].flatten(1, 2)
    if not K:
        return x
    prefix = windows[:, :K].unflatten(0, (-1, rows * cols)).mean(1)
    return torch.cat([prefix, x], dim=1)
