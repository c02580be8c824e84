"""mmcv's point-wise spatial attention mask (PSANet).

Shape letters: B images, H x W the map, mh x mw the mask around a place. A mask channel is an offset
from the place: output (B, H * W, H, W) has at [y, x, h, w] the mask of place (h, w) for the offset
to (y, x), zero where the mask does not reach; ``psa_type`` 1 exchanges (y, x) and (h, w).

Source:
    PSANet, https://hszhao.github.io/projects/psanet.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DISTRIBUTE = 1  # `psa_type`; 0 collects


@torch.no_grad()
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread ``input`` (B, mh * mw, H, W) over ``output``."""
    margins = _margins((h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    masks = input.unflatten(1, (h_mask, w_mask)).permute(0, 3, 4, 1, 2)  # (B, H, W, mh, mw)
    spread = _by_target(F.pad(masks, margins).contiguous())
    _arranged(output, psa_type).copy_(spread)


@torch.no_grad()
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of the mask to ``grad_input`` (B, mh * mw, H, W)."""
    margins = _margins((h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    left, right, top, bottom = margins
    shape = (num_, h_feature, w_feature, h_mask + top + bottom, w_mask + left + right)
    padded = grad_output.new_zeros(shape)
    _by_target(padded).copy_(_arranged(grad_output, psa_type))
    masks = F.pad(padded, [-margin for margin in margins])
    grad_input.copy_(masks.permute(0, 3, 4, 1, 2).flatten(1, 2))


def _margins(
    feature: tuple[int, int], mask: tuple[int, int], half: tuple[int, int]
) -> tuple[int, int, int, int]:
    """What to add left, right, above and below the mask to hold every offset and no other."""
    before = [f - 1 - h for f, h in zip(feature, half, strict=True)]
    after = [2 * f - 1 - m - b for f, m, b in zip(feature, mask, before, strict=True)]
    return before[1], after[1], before[0], after[0]


def _by_target(masks: Tensor) -> Tensor:
    """View of contiguous (B, H, W, 2 H - 1, 2 W - 1) masks as (B, H, W, H, W).

    The last two axes become the place the offset leads to: y - h + H - 1 is the mask's row.
    """
    batch, height, width = masks.shape[:3]
    b, h, w, row, column = masks.stride()
    start = masks.storage_offset() + (height - 1) * row + (width - 1) * column
    strides = (b, h - row, w - column, row, column)
    return masks.as_strided((batch, height, width, height, width), strides, start)


def _arranged(spread: Tensor, psa_type: int) -> Tensor:
    """View of (B, H * W, H, W) as (B, h, w, y, x)."""
    view = spread.unflatten(1, spread.shape[2:])
    return view if psa_type == DISTRIBUTE else view.permute(0, 3, 4, 1, 2)
