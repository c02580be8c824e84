"""Focal losses, CARAFE, masked convolution, PSA mask, synchronised norm and missing operators."""

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision

from mmdet_seg import compat

compat.install()

import mmcv.ops as ops  # noqa: E402  only after the stand-in is in place
from mmcv.utils.ext_loader import load_ext  # noqa: E402


def logits_and_labels(
    classes: int = 5, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(12, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(0, classes, (12,), generator=generator)


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_sigmoid_focal_loss_is_torchvisions(reduction):
    logits, labels = logits_and_labels()
    labels[0] = 5  # background: no class is positive
    logits.requires_grad_()
    ours = ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, reduction)
    targets = F.one_hot(labels, 6)[:, :5].float()
    theirs = torchvision.ops.sigmoid_focal_loss(logits, targets, 0.25, 2.0, 'none')
    if reduction != 'none':
        theirs = theirs.sum() / (len(logits) if reduction == 'mean' else 1)  # mmcv's mean: samples
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(y.sum(), logits)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_sigmoid_focal_loss_weighs_classes():
    logits, labels = logits_and_labels()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0])
    plain = ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, 'none')
    weighted = ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, weight, 'none')
    torch.testing.assert_close(weighted, plain * weight[labels][:, None])


def test_sigmoid_focal_loss_of_certain_logits_is_finite():
    logits = torch.tensor([[200.0, -200.0]]).requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'sum')
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_softmax_focal_loss_follows_its_definition(gamma):
    logits, labels = logits_and_labels(dtype=torch.float64)
    logits.requires_grad_()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
    ours = ops.softmax_focal_loss(logits, labels, gamma, 0.25, weight, 'sum')
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    theirs = (-0.25 * weight[labels] * (1 - p) ** gamma * p.log()).sum()
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(y, logits)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_softmax_focal_loss_skips_negative_labels():
    logits, labels = logits_and_labels()
    labels[3] = -1
    logits.requires_grad_()
    loss = ops.softmax_focal_loss(logits, labels, 2.0, 0.25, None, 'none')
    (grad,) = torch.autograd.grad(
        ops.softmax_focal_loss(logits, labels, 2.0, 0.25, None, 'sum'), logits
    )
    assert loss[3] == 0
    assert not grad[3].any()
    assert (loss[4:] > 0).all()


def upsampled_by_unfolding(features, masks, kernel, groups, scale) -> torch.Tensor:
    """CARAFE's definition: each output pixel weighs the neighbourhood of its source pixel."""
    batch, channels, height, width = features.shape
    windows = F.unfold(features, kernel, padding=kernel // 2)
    windows = windows.view(batch, channels * kernel**2, height, width)
    windows = F.interpolate(windows, scale_factor=scale, mode='nearest')
    windows = windows.view(batch, groups, channels // groups, kernel**2, *masks.shape[2:])
    weights = masks.view(batch, groups, 1, kernel**2, *masks.shape[2:])
    return (windows * weights).sum(3).flatten(1, 2)


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 2), (3, 4, 3)])
def test_carafe_follows_its_definition(kernel, groups, scale):
    generator = torch.Generator().manual_seed(0)
    size = (2, groups * kernel**2, 5 * scale, 6 * scale)
    features, masks = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((2, 8, 5, 6), size)
    )
    ours = ops.carafe(features, masks, kernel, groups, scale)
    theirs = upsampled_by_unfolding(features, masks, kernel, groups, scale)
    torch.testing.assert_close(ours, theirs)
    for ours_grad, theirs_grad in zip(
        *(torch.autograd.grad(y.square().sum(), (features, masks)) for y in (ours, theirs)),
        strict=True,
    ):
        torch.testing.assert_close(ours_grad, theirs_grad)
    naive = ops.CARAFENaive(kernel, groups, scale)(features, masks)
    torch.testing.assert_close(naive, theirs)


def test_offsets_of_a_finer_level_are_read_from_their_start():
    # As the compiled operator reads them, without a look at their size; mmdet's DyHead does this.
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight = normal(2, 3, 4, 5), normal(2, 3, 3, 3)
    offset, mask = normal(2, 18, 8, 10), normal(2, 9, 8, 10)
    start = [t.flatten(1)[:, : t[0, :, ::2, ::2].numel()] for t in (offset, mask)]
    start = [t.view(2, -1, 4, 5) for t in start]
    results = [
        ops.modulated_deform_conv2d(x, o, m, weight, None, 1, 1) for o, m in ((offset, mask), start)
    ]
    torch.testing.assert_close(*results)
    grads = [torch.autograd.grad(y.square().sum(), (x, offset, mask, weight)) for y in results]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_masked_convolution_is_a_convolution_at_the_places_of_the_mask():
    generator = torch.Generator().manual_seed(0)
    layer = ops.MaskedConv2d(3, 4, 3, padding=1)
    x = torch.randn(1, 3, 9, 7, generator=generator)
    mask = torch.rand(1, 9, 7, generator=generator) > 0.6
    with torch.no_grad():
        masked, everywhere = layer(x, mask), layer(x)
    torch.testing.assert_close(masked, everywhere * mask[:, None])
    assert masked.any()


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('mask_size', [(7, 9), (3, 5), (9, 11)])  # as needed, smaller, larger
def test_psa_mask_follows_its_definition(kind, mask_size):
    height, width = 4, 5
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(2, mask_size[0] * mask_size[1], height, width, generator=generator)
    masks.requires_grad_()
    result = ops.PSAMask(kind, mask_size)(masks)
    expected = torch.zeros(2, height, width, height, width)
    by_offset = masks.view(2, *mask_size, height, width)
    middle = ((mask_size[0] - 1) // 2, (mask_size[1] - 1) // 2)
    places = itertools.product(range(height), range(width), range(height), range(width))
    for y, x, h, w in places:
        row, column = y - h + middle[0], x - w + middle[1]
        if 0 <= row < mask_size[0] and 0 <= column < mask_size[1]:
            at = (y, x, h, w) if kind == 'collect' else (h, w, y, x)
            expected[(slice(None), *at)] = by_offset[:, row, column, h, w]
    expected = expected.view(2, height * width, height, width)
    assert torch.equal(result, expected)
    (grad,) = torch.autograd.grad(result.square().sum(), masks)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), masks)
    torch.testing.assert_close(grad, expected_grad)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures('one_process')
@pytest.mark.parametrize('mode', ['default', 'N'])
def test_synchronised_norm_is_batch_norm(mode):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, 6, generator=generator).requires_grad_()
    ours, theirs = ops.SyncBatchNorm(4, stats_mode=mode), torch.nn.BatchNorm2d(4)
    theirs.load_state_dict(ours.state_dict())
    results = [layer(x) for layer in (ours, theirs)]
    torch.testing.assert_close(*results)
    grads = [
        torch.autograd.grad(y.pow(3).sum(), (x, layer.weight, layer.bias))
        for y, layer in zip(results, (ours, theirs), strict=True)
    ]
    for ours_grad, theirs_grad in zip(*grads, strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_other_operators_are_named_when_called():
    ext = load_ext('_ext', ['iou3d_nms3d_forward'])  # what importing mmcv.ops does
    with pytest.raises(NotImplementedError, match=r"^mmcv operator 'iou3d_nms3d_forward'.*mmcv"):
        ext.iou3d_nms3d_forward(torch.zeros(1))
    rotated = torch.tensor([[5.0, 5.0, 4.0, 2.0, 0.3]])
    with pytest.raises(NotImplementedError, match='box_iou_rotated'):
        ops.box_iou_rotated(rotated, rotated)
    assert not hasattr(ext, '__path__')
