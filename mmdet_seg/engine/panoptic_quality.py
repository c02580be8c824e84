"""Panoptic quality, in percent, with a table of classes.

mmdet's metric needs ``panopticapi``, which no package index has, and files of COCO's layout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

# mmdet's: a segment is ``class + number * 1000``.
_OFFSET = 1000
_VOID = -1
_IOU, _TP, _FP, _FN = range(4)


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """PQ, and its parts SQ (how well segments fit) and RQ (how many are found).

    A segment is found where it overlaps one of its class by more than half. Pixels without truth
    count for nobody, and crowds excuse what lies in them. The truth is what the pipeline loaded:
    instances of things and, in the semantic map, the classes after them.

    Args:
        kwargs: Of mmengine's ``BaseMetric``.

    Attributes:
        table: Class name to ``{'PQ': ..., 'SQ': ..., 'RQ': ...}``; None for a class that the data
            do not hold.

    Source:
        https://arxiv.org/abs/1801.00868 and the rules of COCO's panoptic task.
    """

    default_prefix = None
    table_name = 'per_class_pq'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table: dict[str, dict[str, float | None]] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Gather (C, 4) counts of every image: overlap of the found, found, wrong, missed."""
        classes = len(self.dataset_meta['classes'])
        things = len(self.dataset_meta['thing_classes'])
        for sample in data_samples:
            found = sample['pred_panoptic_seg']['sem_seg'].squeeze(0).cpu().numpy().astype(np.int64)
            found[found % _OFFSET >= classes] = _VOID
            truth, crowds = _truth(sample, classes, things)
            self.results.append(count_segments(found, truth, crowds, classes))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Metrics in percent from what ``process`` gathered."""
        names = self.dataset_meta['classes']
        things = len(self.dataset_meta['thing_classes'])
        rows = qualities(sum(results))
        self.table = {
            name: {k: _percent(v) for k, v in zip(('PQ', 'SQ', 'RQ'), row, strict=True)}
            for name, row in zip(names, rows, strict=True)
        }
        metrics = {}
        for suffix, part in (('', rows), ('_things', rows[:things]), ('_stuff', rows[things:])):
            seen = part[~np.isnan(part[:, 0])]
            means = seen.mean(0) if len(seen) else np.zeros(3)
            for name, value in zip(('PQ', 'SQ', 'RQ'), means, strict=True):
                metrics[name + suffix] = _percent(value)
        return metrics


def count_segments(
    found: np.ndarray, truth: np.ndarray, crowds: Sequence[int], num_classes: int
) -> np.ndarray:
    """Compare two maps of one image.

    Args:
        found: (H, W) int, ``class + number * 1000`` of each pixel's segment, -1 for none.
        truth: (H, W) int likewise.
        crowds: Segments of ``truth`` that stand for many objects.
        num_classes: C.

    Returns:
        (C, 4): overlap of the found, found, wrong, missed.
    """
    counts = np.zeros((num_classes, 4))
    pairs, sizes = np.unique(np.stack([found.ravel(), truth.ravel()]), axis=1, return_counts=True)
    shared = {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, sizes, strict=True)}
    areas = [dict(zip(*np.unique(x, return_counts=True), strict=True)) for x in (found, truth)]
    matched: list[set[int]] = [set(), set()]
    for (a, b), common in shared.items():
        if _VOID in (a, b) or b in crowds or a % _OFFSET != b % _OFFSET:
            continue
        overlap = common / (areas[0][a] + areas[1][b] - common - shared.get((a, _VOID), 0))
        if overlap > 0.5:
            counts[a % _OFFSET, [_IOU, _TP]] += overlap, 1
            matched[0].add(a)
            matched[1].add(b)
    for b in areas[1]:
        if b != _VOID and b not in crowds and b not in matched[1]:
            counts[b % _OFFSET, _FN] += 1
    for a, area in areas[0].items():
        if a == _VOID or a in matched[0]:
            continue
        excused = shared.get((a, _VOID), 0)
        excused += sum(shared.get((a, b), 0) for b in crowds if b % _OFFSET == a % _OFFSET)
        if excused / area <= 0.5:
            counts[a % _OFFSET, _FP] += 1
    return counts


def qualities(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ and RQ of every class: (C, 4) -> (C, 3), nan for a class that never occurs."""
    overlap, hit, wrong, missed = counts.T
    weight = hit + (wrong + missed) / 2
    with np.errstate(invalid='ignore'):
        fits = np.where(hit > 0, overlap / np.maximum(hit, 1), 0.0)
        recognised = np.where(weight > 0, hit / weight, np.nan)
    return np.stack([fits * recognised, np.where(weight > 0, fits, np.nan), recognised], axis=1)


def _truth(sample: dict, classes: int, things: int) -> tuple[np.ndarray, list[int]]:
    """Map of segments (H, W) and which of them are crowds."""
    labels = sample['gt_sem_seg']['sem_seg'].squeeze(0).cpu().numpy().astype(np.int64)
    truth = np.where((labels >= things) & (labels < classes), labels, _VOID)
    crowds, number = [], 0
    for key in ('ignored_instances', 'gt_instances'):
        part = sample.get(key) or {}
        if 'masks' not in part:
            continue
        for mask, label in zip(part['masks'].masks, part['labels'].tolist(), strict=True):
            number += 1
            truth[mask.astype(bool)] = label + number * _OFFSET
            if key == 'ignored_instances':
                crowds.append(label + number * _OFFSET)
    # Of things without an instance (crowds in COCO's own panoptic files) only the class is known.
    rest = (truth == _VOID) & (labels < things)
    truth[rest] = labels[rest] + (number + 1) * _OFFSET
    return truth, crowds + np.unique(truth[rest]).tolist()


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)
