"""Nearest neighbours in a memory with faiss. Shapes: M entries, D channels, n queries."""

import math

import torch
from torch import Tensor

from mmdet_seg.probes.patch_memory import Neighbours

_BLOCK = 1 << 16  # entries that are given to faiss at a time


class FaissIndex:
    """faiss's inner products on unit vectors, on the CPU.

    Args:
        features: (M, D) of unit length, any float type; faiss keeps float32.
        approximate: An inverted file with about 4 sqrt(M) cells, a sixteenth of which is searched,
            instead of all entries.
        seed: Of the cells.

    Raises:
        ValueError: faiss is not installed.
    """

    def __init__(self, features: Tensor, *, approximate: bool = False, seed: int = 0) -> None:
        try:
            import faiss
        except ImportError:
            raise ValueError(
                '--index faiss needs faiss: pip install mmdet_seg[probe], or take --index torch.'
            ) from None
        M, D = features.shape
        self.exact = not approximate
        self._index = faiss.IndexFlatIP(D)
        if approximate:
            cells = max(1, min(round(4 * math.sqrt(M)), M // 40))  # faiss wants 39 entries a cell
            self._index = faiss.IndexIVFFlat(self._index, D, cells, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.seed = seed + 1
            self._index.nprobe = max(8, cells // 16)
            few = features[:: -(-M // (256 * cells))]  # as many as faiss would use
            self._index.train(few.float().numpy())
        for block in features.split(_BLOCK):
            self._index.add(block.float().numpy())

    def nearest(self, queries: Tensor, k: int) -> Neighbours:
        """The k most similar entries of every query, on the queries' device.

        An approximate index may find fewer: what is missing has no weight (similarity minus
        infinity, index 0).
        """
        values, indices = self._index.search(
            queries.float().cpu().numpy(), min(k, self._index.ntotal)
        )
        values, indices = torch.from_numpy(values), torch.from_numpy(indices)
        missing = indices < 0
        values = values.masked_fill(missing, -math.inf)
        return Neighbours(
            values.to(queries.device), indices.masked_fill(missing, 0).to(queries.device)
        )
