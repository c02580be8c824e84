"""Nearest neighbours in a memory, exactly, with PyTorch.

Shapes: M entries, D channels, n queries, k neighbours.
"""

from typing import Protocol

import torch
from torch import Tensor

from mmdet_seg.probes.patch_memory import Neighbours

INDEXES = ('torch', 'faiss', 'ivf')
_QUERIES, _ENTRIES = 1024, 1 << 16  # compared at a time: 256 MiB of cosines


class Index(Protocol):
    """Finds neighbours; ``exact`` says whether they are the nearest."""

    exact: bool

    def nearest(self, queries: Tensor, k: int) -> Neighbours:
        """The k most similar entries of every query: (n, D) float32 of unit length."""
        ...


class TorchIndex:
    """Compares with every entry, blocks at a time, wherever the queries are.

    Args:
        features: (M, D) of unit length, any float type.
        device: Where to keep them.
    """

    exact = True

    def __init__(self, features: Tensor, device: torch.device | str = 'cpu') -> None:
        self.features = features.to(device)

    def nearest(self, queries: Tensor, k: int) -> Neighbours:
        """See :meth:`Index.nearest`."""
        found = [self._nearest(part, k) for part in queries.split(_QUERIES)]
        values, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Neighbours(values, indices)

    def _nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        queries = queries.to(self.features.device, torch.float32)
        best = queries.new_empty(len(queries), 0)
        which = torch.empty(best.shape, dtype=torch.long, device=best.device)
        for start in range(0, len(self.features), _ENTRIES):
            block = self.features[start : start + _ENTRIES].float()
            values, places = (queries @ block.T).topk(min(k, len(block)), dim=1)
            best, which = torch.cat([best, values], 1), torch.cat([which, places + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            which = which.gather(1, order)
        return best, which


def build_index(
    kind: str, features: Tensor, *, device: torch.device | str = 'cpu', seed: int = 0
) -> Index:
    """An index by name.

    Args:
        kind: ``torch`` and ``faiss`` are exact, ``ivf`` is faiss's inverted file, approximate.
        features: (M, D) of unit length.
        device: Where ``torch`` searches; faiss stays on the CPU.
        seed: Of the cells of ``ivf``.

    Raises:
        ValueError: faiss is wanted and not installed.
    """
    if kind == 'torch':
        return TorchIndex(features, device)
    from mmdet_seg.probes.faiss_index import FaissIndex

    return FaissIndex(features, approximate=kind == 'ivf', seed=seed)


def recall(index: Index, features: Tensor, queries: Tensor, k: int) -> float:
    """Share of the true neighbours that an index finds, in percent.

    Args:
        index: Approximate.
        features: (M, D) that it holds.
        queries: (n, D) to try.
        k: Neighbours.
    """
    found = index.nearest(queries, k).indices.cpu()
    truth = TorchIndex(features, queries.device).nearest(queries, k).indices.cpu()
    hits = (found[:, :, None] == truth[:, None, :]).any(2).float().mean()
    return 100 * float(hits)
