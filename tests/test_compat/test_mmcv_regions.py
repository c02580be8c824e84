"""RoIAlign, RoIPool and their deformable kin beyond the golden cases."""

import itertools
import math

import pytest
import torch
import torchvision

from mmdet_seg import compat

compat.install()

import mmcv.ops as ops  # noqa: E402  only after the stand-in is in place


def some_maps(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 14, 17, generator=generator, dtype=torch.float64).to(dtype)


REGIONS = torch.tensor(
    [
        [0, 1.3, 2.7, 9.2, 8.1],
        [1, -3.5, -2.0, 5.0, 20.0],  # beyond the map
        [0, 4.0, 4.0, 4.4, 4.3],  # inside a pixel
        [1, 40.0, 40.0, 50.0, 50.0],  # off the map
        [1, 0.0, 0.0, 16.0, 13.0],
    ]
)


def pooled_one_bin_at_a_time(maps, rois, size, scale) -> torch.Tensor:
    """mmcv's definition of RoIPool, on pixels, with autograd."""
    out = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for row, column in itertools.product(range(size[0]), range(size[1])):
            height, width = (y2 - y1) / size[0], (x2 - x1) / size[1]
            top, left = math.floor(y1 + row * height), math.floor(x1 + column * width)
            bottom = math.ceil(y1 + (row + 1) * height)
            right = math.ceil(x1 + (column + 1) * width)
            cells = maps[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            out.append(cells.flatten(1).amax(1) if cells.numel() else maps.new_zeros(len(maps[0])))
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('scale', [1.0, 0.25])
def test_roi_pool_follows_its_definition(scale):
    maps = some_maps().requires_grad_()
    result = ops.RoIPool((3, 2), scale)(maps, REGIONS)
    (grad,) = torch.autograd.grad(result.square().sum(), maps)
    expected = pooled_one_bin_at_a_time(maps, REGIONS, (3, 2), scale)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), maps)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_roi_pool_is_torchvisions_where_regions_lie_on_pixels():
    maps = some_maps().requires_grad_()
    rois = REGIONS.round()
    ours = ops.roi_pool(maps, rois, (4, 3), 1.0)
    theirs = torchvision.ops.roi_pool(maps, rois, (4, 3), 1.0)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(y.square().sum(), maps)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_no_regions():
    maps, none = some_maps().requires_grad_(), torch.zeros(0, 5)
    for layer in (ops.RoIAlign(7), ops.RoIPool(7), ops.RoIAlign(7, pool_mode='max')):
        result = layer(maps, none)
        assert result.shape == (0, 3, 7, 7)
        (grad,) = torch.autograd.grad(result.sum(), maps)
        assert not grad.any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_in_other_precisions(dtype, mode):
    maps = some_maps(dtype).requires_grad_()
    layer = ops.RoIAlign(3, 0.5, 2, mode)
    result = layer(maps, REGIONS.to(dtype))
    (grad,) = torch.autograd.grad(result.sum(), maps)
    exact = maps.detach().double().requires_grad_()
    expected = layer(exact, REGIONS.to(dtype).double())
    (expected_grad,) = torch.autograd.grad(expected.sum(), exact)
    assert result.dtype == grad.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 5e-3
    torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(grad.double(), expected_grad, atol=tolerance, rtol=tolerance)


def test_maximum_over_adaptive_samples():
    # One sample per pixel of the map, at its centre: the maximum over the pixels of the bin.
    maps = some_maps().requires_grad_()
    rois = torch.tensor([[0, 2, 3, 8, 11], [1, 0, 0, 16, 12]]).float()
    result = ops.RoIAlign(2, 1.0, 0, 'max', aligned=True)(maps, rois)
    for roi, bins in zip(rois.long().tolist(), result, strict=True):
        cells = maps[roi[0], :, roi[2] : roi[4], roi[1] : roi[3]]
        expected = torch.nn.functional.max_pool2d(cells, (cells.shape[1] // 2, cells.shape[2] // 2))
        torch.testing.assert_close(bins, expected)
    (grad,) = torch.autograd.grad(result.sum(), maps)
    assert int((grad == 1).sum()) == result.numel()


def test_deformable_pooling_without_offset_is_roi_align():
    maps = some_maps().requires_grad_()
    rois = REGIONS[[0, 1, 4]]
    for ratio in (0, 2):
        ours = ops.deform_roi_pool(maps, rois, None, (3, 2), 0.5, ratio, 0.1)
        theirs = torchvision.ops.roi_align(maps, rois, (3, 2), 0.5, ratio, aligned=True)
        torch.testing.assert_close(ours, theirs)
        grads = [torch.autograd.grad(y.square().sum(), maps)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*grads)


def test_deformable_pooling_moves_each_bin():
    maps = some_maps()
    rois = torch.tensor([[1, 4, 3, 10, 9]]).float()
    offset = torch.zeros(1, 2, 1, 1)
    offset[:, 0], offset[:, 1] = 2.0, -1.0  # times gamma, times the region's size of 6
    moved = ops.deform_roi_pool(maps, rois, offset, 1, 1.0, 2, 0.1)
    shift = torch.tensor([[0, 1.2, -0.6, 1.2, -0.6]])
    torch.testing.assert_close(
        moved, torchvision.ops.roi_align(maps, rois + shift, 1, 1.0, 2, aligned=True)
    )


def test_deformable_pooling_gradients():
    # Samples well inside the map and off the pixels' centres, where interpolation is smooth.
    maps = some_maps(torch.float64)[:, :2, :8, :9].clone().requires_grad_()
    rois = torch.tensor([[0, 1.3, 2.1, 5.2, 5.4], [1, 2.15, 1.4, 6.3, 5.7]]).double()
    generator = torch.Generator().manual_seed(2)
    offset = torch.rand(2, 2, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()

    def pool(maps, offset):
        return ops.deform_roi_pool(maps, rois, offset, 2, 1.0, 2, 0.1)

    assert torch.autograd.gradcheck(pool, (maps, offset))


def test_regions_of_a_diverged_model_give_zeros_and_no_crash():
    maps = some_maps().requires_grad_()
    lost = torch.full((2, 5), torch.nan)
    lost[:, 0] = torch.tensor([0, 1])
    lost[1, 1:] = torch.tensor([0, 0, torch.inf, 3])
    offset = torch.full((2, 2, 2, 2), torch.nan)
    for result in (
        ops.roi_align(maps, lost, 2, 1.0, 0, 'avg', True),
        ops.roi_align(maps, lost, 2, 1.0, 0, 'max', True),
        ops.roi_pool(maps, lost, 2, 1.0),
        ops.deform_roi_pool(maps, lost, None, 2, 1.0, 2, 0.1),
        ops.deform_roi_pool(maps, REGIONS[:2], offset, 2, 1.0, 2, 0.1),
    ):
        assert result.isfinite().all()
        (grad,) = torch.autograd.grad(result.sum(), maps)
        assert grad.isfinite().all()


@pytest.mark.parametrize('modulated', [False, True])
def test_offsets_of_a_diverged_model_sample_zero(modulated):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 6, 7, generator=generator).requires_grad_()
    offset = torch.zeros(1, 18, 6, 7)
    offset[:, 4, 2, 3] = torch.nan  # the row of the third kernel cell, at one place
    weight = torch.randn(3, 2, 3, 3, generator=generator).requires_grad_()
    if modulated:
        result = ops.modulated_deform_conv2d(
            x, offset, torch.ones(1, 9, 6, 7), weight, None, 1, 1, 1, 1, 1
        )
    else:
        result = ops.deform_conv2d(x, offset, weight, 1, 1)
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    without = expected.clone()
    without[0, :, 2, 3] -= weight[:, :, 0, 2] @ x[0, :, 1, 4]
    torch.testing.assert_close(result, without)
    grads = [torch.autograd.grad(y.sum(), (x, weight)) for y in (result, without)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
