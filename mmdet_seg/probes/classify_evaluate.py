"""Testing many classifiers on one pass over the images.

Shapes: B images, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmdet_seg.probes.classify_inputs import Inputs
from mmdet_seg.probes.imagenet_sets import EvalSet
from mmdet_seg.probes.progress import Progress

# Scores (B, C) of one classifier or of several by name; the higher, the likelier.
Scorer = Callable[[Inputs], Mapping[str, Tensor]]


@dataclass
class Outcome:
    """What one classifier said of all images.

    Attributes:
        top1: Percent of the images whose first guess is right.
        top5: Percent with a right class among the first five (or all, where there are fewer).
        predictions: (n,) first guesses.
        confidence: (n,) their share of the scores, 0 to 1.
    """

    top1: float = 0.0
    top5: float = 0.0
    predictions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def per_class(self, labels: np.ndarray, classes: list[str]) -> dict[str, float]:
        """Percent of each class's images that are right; classes without images are left out."""
        counts = np.bincount(labels, minlength=len(classes))
        right = np.bincount(labels[self.predictions == labels], minlength=len(classes))
        return {
            name: 100 * float(r / n) for name, r, n in zip(classes, right, counts, strict=True) if n
        }


@torch.no_grad()
def evaluate(
    scorers: Sequence[Scorer], chunks: Iterable[tuple[slice, Inputs]], where: EvalSet
) -> dict[str, Outcome]:
    """Test classifiers on a set.

    With a mask, only the classes of the set can be guessed. With several right classes of an image,
    any of them is right.

    Args:
        scorers: What is tested.
        chunks: Rows and features of all images, in order.
        where: The set.
    """
    mask = None if where.mask is None else torch.from_numpy(where.mask)
    found: dict[str, list[tuple]] = {}
    progress = Progress(f'testing on {where.name}', len(where.images))
    for rows, inputs in chunks:
        right = _right(where, rows)
        for scorer in scorers:
            for name, scores in scorer(inputs).items():
                scores = scores.float().cpu()
                if mask is not None:
                    scores = scores[:, mask]
                best = scores.topk(min(5, scores.shape[1]), dim=1).indices
                guesses = best if mask is None else mask[best]
                hit = right.gather(1, guesses)
                share = _share(scores).gather(1, best[:, :1])[:, 0]
                found.setdefault(name, []).append((hit[:, 0], hit.any(1), guesses[:, 0], share))
        progress.add(rows.stop - rows.start)
    progress.close()
    out = {}
    for name, parts in found.items():
        first, any_, guesses, share = (torch.cat(p) for p in zip(*parts, strict=True))
        top1, top5 = (100 * x.double().mean().item() for x in (first, any_))
        out[name] = Outcome(top1, top5, guesses.numpy(), share.numpy())
    return out


def _right(where: EvalSet, rows: slice) -> Tensor:
    """(B, C) bool: what counts as right."""
    labels = where.images.labels[rows]
    right = torch.zeros(len(labels), len(where.images.classes), dtype=torch.bool)
    if where.sets is None:
        right[torch.arange(len(labels)), torch.from_numpy(labels)] = True
    else:
        for i, classes in enumerate(where.sets[rows]):
            right[i, classes] = True
    return right


def _share(scores: Tensor) -> Tensor:
    """Scores as shares that sum to 1: votes do already, logits go through softmax."""
    votes = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()))
    return scores if votes else scores.softmax(1)
