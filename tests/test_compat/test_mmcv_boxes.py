"""Suppression: ties, precisions and an independent soft-NMS, through mmcv's public functions."""

import numpy as np
import pytest
import torch

from mmdet_seg import compat

compat.install()

import mmcv.ops as ops  # noqa: E402  only after the stand-in is in place


def some_boxes(count: int, seed: int = 0, side: float = 60) -> torch.Tensor:
    """Boxes on whole pixels, crowded enough to overlap."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, int(side), (count, 2), generator=generator)
    size = torch.randint(5, 40, (count, 2), generator=generator)
    return torch.cat([corner, corner + size], 1).float()


def test_an_overlap_equal_to_the_threshold_is_kept():
    # 3 x 10 of the second box of 10 x 10 lies in the first: the overlap is 0.3 in float32, which
    # as a double is greater than the double 0.3.
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 3, 10]]).float()
    dets, keep = ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.3)
    assert keep.tolist() == [0, 1]
    assert dets.shape == (2, 5)


def test_equal_scores_keep_the_order_given():
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 59, 59], [50, 50, 59, 59]]).float()
    _, keep = ops.nms(boxes, torch.full((4,), 0.5), iou_threshold=0.5)
    assert keep.tolist() == [0, 2]


def test_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 8]]).float()  # 25 of 45 pixels; 16 of 32 without
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.52, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.52, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    boxes, scores = some_boxes(40), torch.rand(40, generator=torch.Generator().manual_seed(1))
    scores = scores.to(dtype)
    dets, keep = ops.nms(boxes.to(dtype), scores, 0.4)
    assert keep.tolist() == ops.nms(boxes, scores.float(), 0.4)[1].tolist()
    assert dets.dtype == dtype


def soft_nms_one_box_at_a_time(boxes, scores, threshold, sigma, least, method) -> list:
    """Soft-NMS as published (https://arxiv.org/abs/1704.04503): index and final score."""
    left = {i: float(s) for i, s in enumerate(scores)}
    result = []
    while left:
        best = max(left, key=left.get)
        result.append((best, left.pop(best)))
        for other in list(left):
            low = np.maximum(boxes[best, :2], boxes[other, :2])
            high = np.minimum(boxes[best, 2:], boxes[other, 2:])
            inter = np.prod((high - low).clip(0))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (best, other)]
            overlap = inter / (sum(areas) - inter)
            if method == 'gaussian':
                left[other] *= np.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[other] *= 1 - overlap if method == 'linear' else 0
            if left[other] < least:
                del left[other]
    return result


@pytest.mark.parametrize('method', ['linear', 'gaussian', 'naive'])
@pytest.mark.parametrize('least', [0.001, 0.3])
def test_soft_nms_follows_the_paper(method, least):
    boxes = some_boxes(60, seed=3)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(4))
    dets, keep = ops.soft_nms(boxes, scores, 0.3, 0.5, least, method)
    expected = soft_nms_one_box_at_a_time(
        boxes.double().numpy(), scores.numpy(), 0.3, 0.5, least, method
    )
    # A box that is the best one stays whatever its score, in both.
    assert keep.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(dets[:, 4], [score for _, score in expected], rtol=1e-4)
    assert torch.equal(dets[:, :4], boxes[keep])


def test_soft_nms_moves_boxes_as_the_compiled_one_does():
    # With equal scores the order tells the moves: 1 is dropped, 4 (the last) takes its place.
    corners = torch.tensor([0, 0, 100, 200, 300]).float()[:, None]
    boxes = torch.cat([corners, corners, corners + 10, corners + 10], 1)
    _, keep = ops.soft_nms(boxes, torch.full((5,), 0.5), 0.3, method='naive', min_score=0.01)
    assert keep.tolist() == [0, 4, 2, 3]


def test_nothing_in_nothing_out():
    none = torch.zeros(0, 4)
    assert ops.soft_nms(none, torch.zeros(0))[1].tolist() == []
    assert ops.nms_match(torch.zeros(0, 5), 0.5) == []
    assert ops.bbox_overlaps(none, some_boxes(3)).shape == (0, 3)


def test_aligned_overlaps_are_the_diagonal_of_all_pairs():
    first, second = some_boxes(30, seed=5), some_boxes(30, seed=6)
    for mode in ('iou', 'iof'):
        for offset in (0, 1):
            pairs = ops.bbox_overlaps(first, second, mode, offset=offset)
            aligned = ops.bbox_overlaps(first, second, mode, aligned=True, offset=offset)
            assert aligned.max() > 0.2
            torch.testing.assert_close(aligned, pairs.diagonal())


def test_overlaps_carry_no_gradient():
    boxes = some_boxes(3).requires_grad_()
    assert not ops.bbox_overlaps(boxes, boxes).requires_grad
