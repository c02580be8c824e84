"""The training accuracy beside mmseg's own."""

import pytest
import torch

from mmdet_seg import compat

compat.install()  # before mmseg, which imports mmcv's operators

from mmseg.models.decode_heads import decode_head  # noqa: E402
from mmseg.models.losses.accuracy import accuracy as theirs  # noqa: E402


@pytest.mark.parametrize('ignore_index', [None, 255, 2])
@pytest.mark.parametrize('shape', [(2, 5, 9, 7), (1, 3, 4, 4)])
def test_accuracy_is_that_of_mmseg(shape, ignore_index):
    ours = decode_head.accuracy
    assert ours is not theirs
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator)
    labels = torch.randint(0, 3, (shape[0], *shape[2:]), generator=generator)
    labels[:, :2] = 255 if ignore_index == 255 else 2
    for target in (labels, torch.full_like(labels, ignore_index or 0)):
        expected = theirs(scores, target, ignore_index=ignore_index)
        found = ours(scores, target, ignore_index=ignore_index)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


def test_what_is_not_top_one_stays_with_mmseg():
    scores, labels = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    assert decode_head.accuracy(scores, labels, topk=(1, 2)) == theirs(scores, labels, topk=(1, 2))
    assert decode_head.accuracy(scores[:0], labels[:0]) == 0
