"""Patches of training images with the share of every class in them.

Shapes: (H, W) pixels, (h, w) grid of N patches, P pixels of a patch, D channels, C classes, M
patches in the memory.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmdet_seg.engine.process_memory import available_bytes

_WIDTH = 2  # bytes of an entry: float16, finer than the bfloat16 that encoders mostly compute in


class PatchMemory:
    """Unit features of several layers for the same patches, and the labels of these.

    Args:
        layers: Blocks.
        size: M that is aimed at.
        views: Views of training images that fill it.
        embed_dim: D.
        num_classes: C.
        seed: Of which patches are taken.

    Raises:
        ValueError: It does not fit into the machine's memory.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        size: int,
        views: int,
        embed_dim: int,
        num_classes: int,
        seed: int = 0,
    ) -> None:
        self.layers, self.size, self.num_views, self.seed = layers, size, views, seed
        self.num_classes = num_classes
        self.view = 0  # the next one that may be wanted
        self._features: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        self._labels: list[Tensor] = []
        self.bytes_needed = _WIDTH * size * (len(layers) * embed_dim + num_classes)
        free = available_bytes()
        if free is not None and self.bytes_needed > free:
            raise ValueError(
                f'--memory-size {size} takes {self.bytes_needed / 2**30:.1f} GiB for '
                f'{len(layers)} layer{"s" * (len(layers) > 1)} of {embed_dim} channels, and '
                f'{free / 2**30:.1f} GiB are free; take fewer layers or --memory-size '
                f'{size * free // self.bytes_needed}.'
            )

    def quota(self, view: int) -> int:
        """Patches that a view gives; they sum to the size over all views."""
        first, last = (self.size * v // self.num_views for v in (view, view + 1))
        return last - first

    def views_left(self) -> list[int]:
        """Views that have still to be added, in order; none when the memory is complete."""
        return [v for v in range(self.view, self.num_views) if self.quota(v)]

    def add(self, view: int, patches: Mapping[int, Tensor], label: Tensor) -> int:
        """Take a view's patches.

        Args:
            view: The first of :meth:`views_left`.
            patches: Layer to (D, h, w).
            label: (h * P, w * P) int64; numbers from C on are void.

        Returns:
            How many were taken: fewer than the quota where fewer have a label.
        """
        shares = patch_shares(label, next(iter(patches.values())).shape[1:], self.num_classes)
        numbers = np.random.default_rng((self.seed, view)).random(len(shares))
        chosen = sample_patches(shares, self.quota(view), torch.from_numpy(numbers))
        for layer in self.layers:
            cells = patches[layer].flatten(1)[:, chosen.to(patches[layer].device)].T
            self._features[layer].append(unit(cells).half().cpu())
        self._labels.append(shares[chosen].half())
        self.view = view + 1
        return len(chosen)

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def features(self, layer: int) -> Tensor:
        """(M, D) float16, of unit length."""
        return self._whole(self._features[layer])

    def labels(self) -> Tensor:
        """(M, C) float16, rows sum to 1."""
        return self._whole(self._labels)

    def tensors(self) -> dict[str, Tensor]:
        """For :meth:`load`."""
        found = {f'layer{layer}': self.features(layer) for layer in self.layers}
        return {**found, 'labels': self.labels(), 'view': torch.tensor(self.view)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` gave."""
        self.view = int(tensors['view'])
        self._labels = [tensors['labels']]
        self._features = {layer: [tensors[f'layer{layer}']] for layer in self.layers}

    @staticmethod
    def _whole(parts: list[Tensor]) -> Tensor:
        if len(parts) > 1:
            parts[:] = [torch.cat(parts)]  # never both for longer than this takes
        return parts[0]


class Neighbours(NamedTuple):
    """What an index finds for n queries.

    Attributes:
        similarities: (n, k) float32 cosines, descending.
        indices: (n, k) int64, which entries they are of.
    """

    similarities: Tensor
    indices: Tensor


def unit(cells: Tensor) -> Tensor:
    """(n, D) to float32 of unit length."""
    return F.normalize(cells.float(), dim=1)


def patch_shares(label: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """Share of every class in the labelled pixels of every patch.

    Args:
        label: (H, W) int64; numbers from C on are void.
        grid: (h, w) that divides (H, W).
        num_classes: C.

    Returns:
        (h * w, C) float32; rows of patches without any label are zero.
    """
    h, w = grid
    pixels = label.cpu().clamp(max=num_classes).view(h, label.shape[0] // h, w, -1)
    pixels = pixels.transpose(1, 2).flatten(2).flatten(0, 1)  # (N, P * P)
    counts = torch.zeros(h * w, num_classes + 1)
    counts.scatter_add_(1, pixels, torch.ones(pixels.shape))
    known = counts[:, :num_classes]
    return known / known.sum(1, keepdim=True).clamp(min=1)


def sample_patches(shares: Tensor, count: int, numbers: Tensor) -> Tensor:
    """Patches for the memory, those with classes that are rare in this image rather than others.

    Args:
        shares: (N, C) of :func:`patch_shares`.
        count: At most so many.
        numbers: (N,) from 0 to 1, random.

    Returns:
        Indices, ascending; patches without a label are never among them.

    Source:
        vpariza/open-hummingbird-eval: random numbers times how many patches have a patch's
        classes, the smallest are taken.
    """
    present = (shares > 0).float()
    frequency = present.sum(0)  # patches that show a class
    score = (present @ frequency).double() * numbers
    score[present.sum(1) == 0] = math.inf
    count = min(count, int(score.isfinite().sum()))
    return score.topk(count, largest=False).indices.sort().values


def vote(found: Neighbours, labels: Tensor, count: int, temperature: float) -> Tensor:
    """Labels of queries: those of their neighbours, weighted by softmax(cosine / temperature).

    Args:
        found: n queries with at least ``count`` neighbours.
        labels: (M, C).
        count: Nearest ones that have a vote.
        temperature: Of the softmax.

    Returns:
        (n, C) float32, rows sum to 1.

    Source:
        Balazevic et al. 2023, https://arxiv.org/abs/2306.01667, equation 3.
    """
    weights = (found.similarities[:, :count] / temperature).softmax(1)  # (n, k)
    labels = labels.to(weights.device)
    parts = zip(weights.split(1024), found.indices[:, :count].split(1024), strict=True)
    return torch.cat([torch.einsum('nk,nkc->nc', w, labels[i].float()) for w, i in parts])
