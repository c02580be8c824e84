"""Weighted nearest neighbours on pooled features, nothing trained.

Shapes: n stored features, B queries, D channels, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_NEIGHBOURS = (10, 20, 100, 200)  # DINO's
TEMPERATURE = 0.07
_BYTES = 256 << 20  # similarities that are held at a time


class NearestNeighbours:
    """Votes of the most similar features, each with the weight exp(cosine / temperature).

    Args:
        features: (n, D).
        labels: (n,) class numbers.
        num_classes: C.
        temperature: Of the weights.

    Source:
        facebookresearch/dino, ``eval_knn.py``.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        temperature: float = TEMPERATURE,
    ) -> None:
        self.features = F.normalize(features.float(), dim=1)
        self.labels = labels.to(features.device)
        self.num_classes, self.temperature = num_classes, temperature

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines (B, k), descending, and which features (B, k) they are of."""
        queries = F.normalize(queries.float(), dim=1)
        k = min(k, len(self.features))
        rows = max(1, _BYTES // (4 * len(self.features)))
        found = [(part @ self.features.T).topk(k, dim=1) for part in queries.split(rows)]
        return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

    def votes(self, queries: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """Share of the votes for every class, (B, C), for every number of neighbours."""
        cosines, which = self.nearest(queries, max(ks))
        # The largest weight is 1 whatever the temperature, so nothing overflows.
        weights = ((cosines - cosines[:, :1]) / self.temperature).exp()
        labels, out = self.labels[which], {}
        for k in ks:
            votes = weights.new_zeros(len(queries), self.num_classes)
            votes.scatter_add_(1, labels[:, :k], weights[:, :k])
            out[k] = votes / votes.sum(1, keepdim=True)
        return out
