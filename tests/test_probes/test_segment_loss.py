"""The loss of upsampled logits beside PyTorch's interpolation and cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_seg.probes import upsampled_loss
from mmdet_seg.probes.upsampled_loss import IGNORED, Labels, upsampled_cross_entropy
from tests.golden_data import assert_close, load_case

# Grid and labels: multiples of the patch, other ratios, single cells, labels smaller than the grid.
SIZES = [
    ((4, 6), (56, 84)),
    ((5, 5), (64, 72)),
    ((3, 7), (50, 33)),
    ((1, 1), (14, 14)),
    ((1, 9), (16, 144)),
    ((6, 5), (4, 3)),
]


def reference(logits, labels, all_pixels):
    size = labels.shape[1:]
    large = F.interpolate(logits.permute(0, 3, 1, 2), size, mode='bilinear', align_corners=False)
    total = F.cross_entropy(large, labels, ignore_index=IGNORED, reduction='sum')
    return total / (labels.numel() if all_pixels else (labels != IGNORED).sum())


def draw(grid, size, classes=7, images=2, spread=4.0, dtype=torch.float64):
    torch.manual_seed(0)
    logits = (spread * torch.randn(images, *grid, classes, dtype=dtype)).requires_grad_()
    labels = torch.randint(0, classes, (images, *size))
    labels[torch.rand(labels.shape) < 0.2] = IGNORED
    return logits, labels


@pytest.mark.parametrize('all_pixels', [True, False])
@pytest.mark.parametrize(('grid', 'size'), SIZES)
def test_equals_interpolation_and_cross_entropy(grid, size, all_pixels, monkeypatch):
    monkeypatch.setitem(upsampled_loss._CHUNK_BYTES, 'cpu', 20000)  # several chunks
    logits, labels = draw(grid, size)
    found = Labels(labels, grid, 7, all_pixels=all_pixels, dtype=torch.float64)
    loss = upsampled_cross_entropy(logits, found)
    expected = reference(logits, labels, all_pixels)
    assert_close(loss, expected, 1e-6)  # they place pixels in float32
    [ours] = torch.autograd.grad(loss, logits)
    [theirs] = torch.autograd.grad(expected, logits)
    assert_close(ours, theirs, 1e-6)


def test_gradient_by_finite_differences():
    logits, labels = draw((3, 4), (20, 30), classes=3)
    found = Labels(labels, (3, 4), 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: 3 * upsampled_cross_entropy(x, found), [logits])


def test_neighbours_that_differ_by_more_than_float32_has_powers_for():
    logits, labels = draw((4, 5), (56, 70), dtype=torch.float32, spread=300.0)
    loss = upsampled_cross_entropy(logits, Labels(labels, (4, 5), 7))
    expected = reference(logits, labels, True)
    assert_close(loss, expected, 1e-5)
    [ours] = torch.autograd.grad(loss, logits)
    [theirs] = torch.autograd.grad(expected, logits)
    assert_close(ours, theirs, 1e-4)


def test_nothing_to_learn_from_a_batch_without_labels():
    logits, labels = draw((3, 3), (42, 42))
    labels[:] = IGNORED
    for all_pixels in (True, False):
        found = Labels(labels, (3, 3), 7, all_pixels=all_pixels, dtype=torch.float64)
        loss = upsampled_cross_entropy(logits, found)
        assert loss.abs() < 1e-12
        assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


@pytest.mark.parametrize('label', [7, -1, 254])
def test_a_label_that_is_no_class(label):
    _, labels = draw((3, 3), (42, 42))
    labels[0, 0, 0] = label
    with pytest.raises(ValueError, match=f'label {label} is not one of the 7 classes'):
        Labels(labels, (3, 3), 7)


def test_the_authors_loss():
    case = load_case('M_seg_linear')
    logits = case.outputs['decode_logits'].permute(0, 2, 3, 1)
    labels = case.inputs['gt'].reshape(len(logits), *case.inputs['x'].shape[2:]).long()
    found = Labels(labels, tuple(logits.shape[1:3]), logits.shape[3])
    loss = upsampled_cross_entropy(logits, found)
    assert_close(loss.reshape(-1), case.outputs['loss.decode.loss_ce'].reshape(-1), 1e-5)
