"""What every protocol of classification works with and leaves."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdet_seg.probes.classify_data import ClassificationData
from mmdet_seg.probes.classify_evaluate import Outcome, Scorer, evaluate
from mmdet_seg.probes.classify_head_file import HeadFacts, save_head
from mmdet_seg.probes.classify_heads import WITH_WEIGHTS, ClassificationHead
from mmdet_seg.probes.classify_inputs import EachOnce, Inputs, Reads
from mmdet_seg.probes.classify_views import Views
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.imagenet_sets import EvalSet

BEST = 'best_head.safetensors'


@dataclass
class Task:
    """Everything that a protocol works with.

    Attributes:
        args: Of the command line.
        data: To fit on, and the test images.
        sets: To test on; the first is the data's own.
        reader: The encoder.
        views: Of the test images.
        folder: Of the run.
        notes: What a reader of the results must know, added to on the way.
        curves: Likewise.
    """

    args: argparse.Namespace
    data: ClassificationData
    sets: list[EvalSet]
    reader: Reader
    views: Views
    folder: Path
    notes: list[str] = field(default_factory=list)
    curves: dict[str, dict] = field(default_factory=dict)

    def chunks(self, reads: Reads) -> list[EachOnce]:
        """The features of every set."""
        store = Path(self.args.store)
        return [
            EachOnce(self.reader, s.images, self.views, reads, store, f'features of {s.name}')
            for s in self.sets
        ]

    def test(self, scorers: Sequence[Scorer], chunks: Sequence[EachOnce]) -> dict[str, dict]:
        """Classifier to set to outcome."""
        found: dict[str, dict[str, Outcome]] = {}
        for where, features in zip(self.sets, chunks, strict=True):
            for name, outcome in evaluate(scorers, features, where).items():
                found.setdefault(name, {})[where.name] = outcome
        return found


@dataclass
class Fitted:
    """A row of the results.

    Attributes:
        name: Unique.
        settings: What else a row keeps.
        outcomes: By set; empty where it failed.
        failed: Why, in a few words.
    """

    name: str
    settings: dict[str, Any]
    outcomes: dict[str, Outcome]
    failed: str = ''


def scorer(heads: Mapping[str, tuple[ClassificationHead, Sequence[int]]]) -> Scorer:
    """Logits of heads by name; a head comes with the blocks that it reads."""

    def score(inputs: Inputs) -> dict[str, Tensor]:
        return {n: h(inputs.of(layers, h.pooling)) for n, (h, layers) in heads.items()}

    return score


def settings(layers: Sequence[int], pooling: str, norm: str) -> dict[str, Any]:
    """What every row of the results has; without training there are no rates."""
    return {
        'layers': list(layers),
        'combine': pooling,
        'norm': norm,
        'lr': None,
        'weight_decay': None,
        'seed': None,
    }


def keep_head(task: Task, head: ClassificationHead, layers: Sequence[int]) -> None:
    """Write the best head into the run's folder, for ``--head``."""
    encoder = task.reader.encoder
    num_heads = 0
    if head.pooling in WITH_WEIGHTS:
        part = head.attn_pooling if head.pooling == 'attention_pooling' else head.clip_projector
        num_heads = part.cross_attn.num_heads
    facts = HeadFacts(
        tuple(layers),
        head.pooling,
        tuple(task.data.classes),
        encoder.identity,
        num_heads,
        task.reader.final_norm,
        task.views.size,
    )
    save_head(task.folder / BEST, head, facts)
