"""Segmentation by neighbours: patches of an image ask the memory for their labels.

Shapes: (H, W) pixels of a test image, (h, w) grid, D channels, C classes.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_seg.engine.per_class_iou import PerClassIoU
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.memory_index import Index
from mmdet_seg.probes.patch_memory import unit, vote
from mmdet_seg.probes.segment_data import TestImage, pad_to_patch
from mmdet_seg.probes.segment_evaluate import ProbeScore, probe_score
from mmdet_seg.probes.upsampled_loss import IGNORED
from mmdet_seg.segmentors.labels import best_class


class Setting(NamedTuple):
    """One row of the results."""

    layer: int
    neighbours: int
    temperature: float

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f'layer{self.layer}-{self.neighbours}nn-t{self.temperature:g}'


def settings(
    layers: Sequence[int], neighbours: Sequence[int], temperatures: Sequence[float]
) -> list[Setting]:
    """All combinations."""
    return [Setting(*values) for values in product(layers, neighbours, temperatures)]


class Retrieval:
    """A filled memory as a segmentor.

    Args:
        encoder: Frozen.
        indexes: Layer to its index.
        labels: (M, C) of the memory.
        rows: What is tried.
        final_norm: Features go through the encoder's own last norm.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        indexes: Mapping[int, Index],
        labels: Tensor,
        rows: Sequence[Setting],
        *,
        final_norm: bool = False,
    ) -> None:
        self.encoder, self.indexes, self.rows = encoder, indexes, rows
        self.labels, self.final_norm = labels, final_norm

    @torch.no_grad()
    def predict(self, image: TestImage, rows: Sequence[Setting] | None = None) -> list[Tensor]:
        """Labels by every row, at the size of the image's own label: (H, W) int64 on the CPU.

        A layer is searched once, whatever the number of rows.
        """
        rows = self.rows if rows is None else rows
        encoder, P = self.encoder, self.encoder.patch_size
        size = tuple(image.pixels.shape[1:])
        batch = pad_to_patch(image.pixels[None].to(encoder.device), P, 'multiple')
        layers = list(dict.fromkeys(row.layer for row in rows))
        features = encoder.features(batch, layers, final_norm=self.final_norm)
        found = {}
        for layer in layers:
            most = max(row.neighbours for row in rows if row.layer == layer)
            patches = features[layer].patches[0]  # (D, h, w)
            found[layer] = self.indexes[layer].nearest(unit(patches.flatten(1).T), most)
        labels = []
        for row in rows:
            shares = vote(found[row.layer], self.labels, row.neighbours, row.temperature)
            shares = shares.T.unflatten(1, tuple(n // P for n in batch.shape[2:]))[None]
            large = F.interpolate(shares, batch.shape[2:], mode='bilinear', align_corners=False)
            large = large[0, :, : size[0], : size[1]]
            labels.append(best_class(large, tuple(image.label.shape), align_corners=False)[0].cpu())
        return labels

    def areas(self, image: TestImage) -> Tensor:
        """What mmseg's metric counts for every row: (rows, 4, C).

        The four are intersection, union, predicted and labelled pixels of every class.
        """
        num_classes = self.labels.shape[1]
        found = [
            torch.stack(
                PerClassIoU.intersect_and_union(label, image.label, num_classes, IGNORED)
            ).float()
            for label in self.predict(image)
        ]
        return torch.stack(found)


def score_rows(areas: Sequence[Tensor], classes: Sequence[str]) -> list[ProbeScore]:
    """Scores of all rows.

    Args:
        areas: (rows, 4, C) of every image.
        classes: Names.
    """
    scores = []
    for row in range(len(areas[0])):
        metric = PerClassIoU(ignore_index=IGNORED, iou_metrics=['mIoU'])
        metric.results = [tuple(image[row]) for image in areas]
        scores.append(probe_score(metric, classes))
    return scores
