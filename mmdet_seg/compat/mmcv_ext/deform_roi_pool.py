"""mmcv's deformable RoI pooling: RoIAlign whose bins are moved by a learnt offset.

Shape letters: B images, C channels, H x W the map, R regions (image index, then x1 y1 x2 y2 in
input pixels), ph x pw bins, S samples of a bin. ``offset`` is (R, 2, ph, pw), column then row, in
units of ``gamma`` times the region's width and height, or nothing (0,).

Source:
    Deformable ConvNets, https://arxiv.org/abs/1703.06211.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmdet_seg.compat.mmcv_ext.bilinear import corners
from mmdet_seg.compat.mmcv_ext.precision import working_dtype
from mmdet_seg.compat.mmcv_ext.roi import groups_by_grid

_SAMPLED = 1 << 24  # sampled elements held at once, to bound the memory
_FAR = 1e6  # pixels: off any map


@torch.no_grad()
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    **sampling: float,
) -> None:
    """Write the means of the moved bins to ``output`` (R, C, ph, pw).

    mmcv passes ``spatial_scale`` (map pixels per input pixel), ``sampling_ratio`` (samples per bin
    and axis, 0 for one per map pixel) and ``gamma`` by keyword.
    """
    height, width = input.shape[2:]
    pixels = _pixels_last(input, working_dtype(input, rois))
    size = (pooled_height, pooled_width)
    for chosen, first, y, x, _ in _samples(input, rois, offset, size, **sampling):
        total = sum(
            pixels[first + index] * weight[..., None]
            for index, weight in corners(y, x, height, width)
        )  # (K, ph, pw, S, C)
        output[chosen] = total.mean(3).permute(0, 3, 1, 2).to(output.dtype)


@torch.no_grad()
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    **sampling: float,
) -> None:
    """Add to ``grad_input`` and ``grad_offset``, which have the shapes of input and offset."""
    batch, channels, height, width = input.shape
    pixels = _pixels_last(input, working_dtype(input, rois))
    total = torch.zeros_like(pixels)
    size = (pooled_height, pooled_width)
    for chosen, first, y, x, extent in _samples(input, rois, offset, size, **sampling):
        grad = grad_output[chosen].to(pixels.dtype).permute(0, 2, 3, 1)[:, :, :, None] / y.shape[3]
        places = list(corners(y, x, height, width))
        for index, weight in places:
            total.index_add_(0, (first + index).flatten(), (grad * weight[..., None]).flatten(0, 3))
        if offset.numel():
            values = [(pixels[first + index] * grad).sum(-1) for index, _ in places]
            slopes = _slopes(values, y, x, height, width).sum(-1)  # (K, 2, ph, pw)
            moved = slopes * sampling['gamma'] * extent.flip(1)[:, :, None, None]
            grad_offset[chosen] += moved.to(grad_offset.dtype)
    grad_input += total.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _pixels_last(input: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C)."""
    return input.to(dtype).permute(0, 2, 3, 1).reshape(-1, input.shape[1])


def _samples(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Places that are sampled, for some of the regions at a time.

    Yields:
        Indices of K regions, the first pixel of their image (K, 1, 1, 1), rows and columns of the
        samples (K, ph, pw, S), and the regions' height and width on the map (K, 2).
    """
    rois = rois.to(working_dtype(input, rois))
    rois = rois.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    start, end = rois[:, [2, 1]] * spatial_scale - 0.5, rois[:, [4, 3]] * spatial_scale - 0.5
    extent = end - start
    for group, grid in groups_by_grid(extent, size, sampling_ratio):
        per_region = input.shape[1] * size[0] * size[1] * grid[0] * grid[1]
        for chosen in group.split(max(1, _SAMPLED // per_region)):
            axes = []
            for axis, shape in ((0, (1, -1, 1, grid[0], 1)), (1, (1, 1, -1, 1, grid[1]))):
                count = size[axis] * grid[axis]
                steps = (torch.arange(count, device=rois.device) + 0.5) / count
                place = steps.view(shape) * extent[chosen, axis].view(-1, 1, 1, 1, 1)
                place = place + start[chosen, axis].view(-1, 1, 1, 1, 1)
                if offset.numel():
                    moved = gamma * extent[chosen, axis, None, None] * offset[chosen, 1 - axis]
                    place = place + moved[..., None, None]
                place = place.nan_to_num(nan=_FAR)  # of a diverged model
                axes.append(place.expand(-1, *size, *grid).flatten(3))
            first = rois[chosen, 0].long() * (input.shape[2] * input.shape[3])
            yield chosen, first.view(-1, 1, 1, 1), axes[0], axes[1], extent[chosen]


def _slopes(values: list[Tensor], y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Derivative of the interpolation along columns and rows, stacked on axis 1.

    Uses the place as it is, not clamped to the map, as the compiled operator does: within a pixel
    of the border that is not the exact derivative.
    """
    top_left, top_right, bottom_left, bottom_right = values
    top, left = y.clamp(0, height - 1).floor(), x.clamp(0, width - 1).floor()
    below, right = y - top, x - left
    above = (top + 1).clamp(max=height - 1) - y
    before = (left + 1).clamp(max=width - 1) - x
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    across = (bottom_right - bottom_left) * below + (top_right - top_left) * above
    down = (bottom_right - top_right) * right + (bottom_left - top_left) * before
    return torch.stack([across * inside, down * inside], 1)
