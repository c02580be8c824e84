"""mmcv's RoIAlign and RoIPool.

Shape letters: B images, C channels, H x W the map, R regions, ph x pw bins of a region. Regions are
(R, 5): image index, then x1 y1 x2 y2 in input pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mmdet_seg.compat.mmcv_ext.bilinear import corners
from mmdet_seg.compat.mmcv_ext.precision import working_dtype

MAX = 0  # `pool_mode` of roi_align; 1 is the mean
_GATHERED = 1 << 25  # elements that roi_pool gathers at once, to bound its memory


@torch.no_grad()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Mean or maximum of bilinear samples in each bin.

    Args:
        input: (B, C, H, W).
        rois: (R, 5).
        output: (R, C, ph, pw), written to.
        argmax_y: For the maximum (R, C, ph, pw), written to: row of the best sample on the map.
        argmax_x: Likewise its column.
        aligned_height: ph.
        aligned_width: pw.
        spatial_scale: Map pixels per input pixel.
        sampling_ratio: Samples per bin and axis; 0 takes one per map pixel.
        pool_mode: ``MAX`` or 1.
        aligned: Shift by half a pixel.
    """
    dtype = working_dtype(input, rois)
    input, rois = input.to(dtype), _numbers(rois, dtype)
    size = (aligned_height, aligned_width)
    if pool_mode != MAX:
        output.copy_(roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    start, extent = _regions(rois, spatial_scale, aligned)
    for chosen, grid in groups_by_grid(extent, size, sampling_ratio):
        # One sample per cell of a grid times finer falls exactly on the samples of the bin.
        fine = (size[0] * grid[0], size[1] * grid[1])
        samples = roi_align(input, rois[chosen], fine, spatial_scale, 1, aligned)
        best, flat = torch.nn.functional.max_pool2d(samples, grid, return_indices=True)
        output[chosen] = best.to(output.dtype)
        cell = extent[chosen] / extent.new_tensor(fine)  # (K, 2): height, width
        for axis, index, argmax in ((0, flat // fine[1], argmax_y), (1, flat % fine[1], argmax_x)):
            place = start[chosen, axis, None, None, None]
            place = place + (index + 0.5) * cell[:, axis, None, None, None]
            argmax[chosen] = place.to(argmax.dtype)


@torch.no_grad()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to ``grad_input`` (B, C, H, W); arguments as for :func:`roi_align_forward`."""
    dtype = working_dtype(grad_output, rois)
    grad, rois = grad_output.to(dtype), _numbers(rois, dtype)
    if pool_mode != MAX:
        grad_input += torch.ops.torchvision._roi_align_backward(
            grad,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
        return
    height, width = grad_input.shape[2:]
    planes = _planes(rois, grad_input.shape)
    total = torch.zeros(grad_input.numel(), dtype=dtype, device=grad.device)
    for index, weight in corners(argmax_y.to(dtype), argmax_x.to(dtype), height, width):
        total.index_add_(0, (planes + index).flatten(), (grad * weight).flatten())
    grad_input += total.view(grad_input.shape)


@torch.no_grad()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of the map pixels that each bin touches; 0 for a bin outside the map.

    mmcv's bins differ from torchvision's ``roi_pool``, which rounds a region to whole map pixels
    before it divides it: the two agree on regions that lie on map pixels.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), the last pixel included.
        output: (R, C, ph, pw), written to.
        argmax: (R, C, ph, pw), written to: ``row * W + column`` of the maximum, -1 for none.
        pooled_height: ph.
        pooled_width: pw.
        spatial_scale: Map pixels per input pixel.
    """
    argmax.fill_(-1)
    channels, height, width = input.shape[1:]
    rois = _numbers(rois, working_dtype(rois))
    start = rois[:, [2, 1]] * spatial_scale  # (R, 2): row, column
    extent = (rois[:, [4, 3]] + 1) * spatial_scale - start
    valid = (extent > 0).all(1)
    if not valid.any():
        return
    y, y_used = _pixels_of_bins(start[:, 0], extent[:, 0], pooled_height, height)
    x, x_used = _pixels_of_bins(start[:, 1], extent[:, 1], pooled_width, width)
    maps, images = input.flatten(2), rois[:, 0].long()

    per_region = channels * y[0].numel() * x[0].numel()
    for part in valid.nonzero()[:, 0].split(max(1, _GATHERED // per_region)):
        rows, columns = y[part][:, :, None, :, None], x[part][:, None, :, None, :]
        pixels = (rows * width + columns).flatten(3)  # (K, ph, pw, M): M pixels of a bin
        used = (y_used[part][:, :, None, :, None] & x_used[part][:, None, :, None, :]).flatten(3)
        values = maps[images[part][:, None, None, None], :, pixels]  # (K, ph, pw, M, C)
        best, place = values.masked_fill(~used[..., None], -torch.inf).max(3)
        empty = ~used.any(3, keepdim=True)
        output[part] = best.masked_fill(empty, 0).permute(0, 3, 1, 2)
        place = pixels.gather(3, place).masked_fill(empty, -1)
        argmax[part] = place.permute(0, 3, 1, 2).to(argmax.dtype)


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add to ``grad_input`` (B, C, H, W) at the pixels that :func:`roi_pool_forward` chose."""
    grad = grad_output.to(working_dtype(grad_output))
    planes = _planes(rois, grad_input.shape)
    total = torch.zeros(grad_input.numel(), dtype=grad.dtype, device=grad.device)
    chosen = argmax >= 0
    total.index_add_(0, (planes + argmax)[chosen], grad[chosen])
    grad_input += total.view(grad_input.shape)


def groups_by_grid(
    extent: Tensor, size: tuple[int, int], sampling_ratio: int
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Regions that take the same number of samples per bin.

    Args:
        extent: (R, 2), height and width of the regions on the map.
        size: ph, pw.
        sampling_ratio: As for :func:`roi_align_forward`.

    Yields:
        Indices of regions with an area, and their samples per bin along height and width.
    """
    if sampling_ratio > 0:
        everything = torch.arange(len(extent), device=extent.device)
        yield everything, (sampling_ratio, sampling_ratio)
        return
    grids = (extent / extent.new_tensor(size)).ceil().long()
    for grid in grids.unique(dim=0).tolist():
        if min(grid) < 1:
            continue  # a region without area takes no sample
        chosen = (grids == grids.new_tensor(grid)).all(1).nonzero()[:, 0]
        yield chosen, (grid[0], grid[1])


def _numbers(rois: Tensor, dtype: torch.dtype) -> Tensor:
    """Regions in ``dtype``; at nan (a diverged model) torchvision would read out of bounds."""
    return rois.to(dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _regions(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Top left corner and extent of the regions on the map, (R, 2) each: row, column."""
    shift = 0.5 if aligned else 0.0
    start, end = rois[:, [2, 1]] * scale - shift, rois[:, [4, 3]] * scale - shift
    extent = end - start
    return start, extent if aligned else extent.clamp(min=1)


def _planes(rois: Tensor, shape: torch.Size) -> Tensor:
    """Flat index at which the plane of each region and channel begins, (R, C, 1, 1)."""
    _, channels, height, width = shape
    images = rois[:, 0].long()[:, None] * channels
    planes = images + torch.arange(channels, device=rois.device)
    return (planes * (height * width))[:, :, None, None]


def _pixels_of_bins(start: Tensor, extent: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """Pixels along one axis that the bins of each region touch.

    Returns:
        (R, bins, M) indices, where M is the most that any bin touches, and which of them count.
    """
    edges = torch.arange(bins + 1, device=start.device) * (extent / bins)[:, None]
    edges = edges + start[:, None]
    first = edges[:, :-1].floor().clamp(0, limit).long()
    stop = edges[:, 1:].ceil().clamp(0, limit).long()
    most = max(1, int((stop - first).max()))
    pixels = first[..., None] + torch.arange(most, device=start.device)
    return pixels.clamp(max=limit - 1), pixels < stop[..., None]
