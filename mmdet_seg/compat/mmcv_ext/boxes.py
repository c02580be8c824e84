"""mmcv's box operators: nms, softnms, nms_match, bbox_overlaps.

Boxes are (N, 4), x1 y1 x2 y2. ``offset`` is 1 where a box ends with its last pixel, as in mmdet 1.
The compiled operators compare in single precision, so thresholds are rounded to it here as well:
0.3 as a double is smaller than an overlap of float 0.3, and a tie would fall the other way.
"""

import numpy as np
import torch
from torch import Tensor

from mmdet_seg.compat.mmcv_ext.precision import working_dtype

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2  # `method` of softnms


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, best score first; equal scores in the order given."""
    dtype = working_dtype(boxes, scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the score of boxes that overlap a better one; drop those below ``min_score``.

    Runs on the host. The order of equal scores depends on how the compiled operator moves boxes
    about (the best one to the front by a swap, the last one into the place of a dropped one), so
    the same moves are made here, for all remaining boxes at once.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), written to: boxes with their decayed scores, best first.
        iou_threshold: Overlap from which ``NAIVE`` drops and ``LINEAR`` decays.
        sigma: Width of ``GAUSSIAN``.
        min_score: Boxes that fall below it are dropped.
        method: ``NAIVE``, ``LINEAR`` or ``GAUSSIAN``.
        offset: 0 or 1.

    Returns:
        (K,) indices of the boxes kept, K <= N; rows of ``dets`` from K on mean nothing.
    """
    x1, y1, x2, y2 = boxes.to(torch.float32, copy=True).T.contiguous().numpy()
    score = scores.to(torch.float32, copy=True).numpy()
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    index = np.arange(len(score))
    columns = [x1, y1, x2, y2, score, area, index]
    threshold, least, sigma = np.float32(iou_threshold), np.float32(min_score), np.float32(sigma)

    count, done = len(score), 0
    while done < count:
        best = done + int(np.argmax(score[done:count]))
        for column in columns:
            column[done], column[best] = column[best], column[done]
        rest = slice(done + 1, count)
        width = np.minimum(x2[done], x2[rest]) - np.maximum(x1[done], x1[rest]) + offset
        height = np.minimum(y2[done], y2[rest]) - np.maximum(y1[done], y1[rest]) + offset
        inter = width.clip(0) * height.clip(0)
        with np.errstate(invalid='ignore'):  # two empty boxes: 0 / 0, which decays nothing
            overlap = inter / (area[done] + area[rest] - inter)
        if method == GAUSSIAN:
            score[rest] *= np.exp(-(overlap * overlap) / sigma)
        else:
            decay = 1 - overlap if method == LINEAR else np.zeros_like(overlap)
            score[rest] *= np.where(overlap >= threshold, decay, np.float32(1))
        done += 1
        dropped = score[done:count] < least
        if dropped.any():
            kept = count - int(dropped.sum())
            holes = done + np.flatnonzero(dropped[: kept - done])
            fillers = kept + np.flatnonzero(~dropped[kept - done :])[::-1]
            for column in columns:
                column[holes] = column[fillers]
            count = kept
    dets[:count] = torch.from_numpy(np.stack(columns[:5], axis=1)[:count]).to(dets)
    return torch.from_numpy(index[:count])


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices: a kept box first, then those it suppresses, all by descending score.

    Args:
        dets: (N, 5), boxes with scores, on the host.
        iou_threshold: Overlap from which a box is suppressed.
    """
    boxes, scores = dets[:, :4].to(torch.float32), dets[:, 4].to(torch.float32)
    order = scores.argsort(descending=True, stable=True)
    overlap = pairwise_overlap(boxes[order], boxes[order]).numpy()
    order = order.numpy()
    free = np.ones(len(order), dtype=bool)
    groups = []
    for first in range(len(order)):
        if not free[first]:
            continue
        later = free & (overlap[first] >= np.float32(iou_threshold))
        later[: first + 1] = False
        free &= ~later
        groups.append([int(order[first]), *order[later].tolist()])
    return groups


@torch.no_grad()
def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    ious: Tensor,
    mode: int,
    aligned: bool,
    offset: int,
) -> None:
    """Fill ``ious`` with overlap over union (``mode`` 0) or over the first box's area (1).

    Args:
        bboxes1: (N, 4).
        bboxes2: (K, 4).
        ious: (N, K), or (N,) where ``aligned``, written to.
        mode: 0 for IoU, 1 for overlap over the area of ``bboxes1``.
        aligned: Compare row by row instead of all pairs.
        offset: 0 or 1.
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    ious.copy_(_overlap(first, bboxes2, offset, over_first=mode == 1))


def pairwise_overlap(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, 4), (K, 4) -> (N, K) intersection over union."""
    return _overlap(boxes1[:, None], boxes2, 0, over_first=False)


def _overlap(boxes1: Tensor, boxes2: Tensor, offset: int, over_first: bool) -> Tensor:
    """Overlap of broadcast boxes (..., 4)."""
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area1 = (boxes1[..., 2:] - boxes1[..., :2] + offset).prod(-1)
    if over_first:
        return inter / area1
    area2 = (boxes2[..., 2:] - boxes2[..., :2] + offset).prod(-1)
    return inter / (area1 + area2 - inter)
