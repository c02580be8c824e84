"""What the probing lab saves, in one run: probes together, features on disk, weights of 8 bits.

A training step of one probe and of sixteen on the 300M encoder; the same sixteen from a feature
store; the encoder with int8 weights beside bf16. Random weights, images and labels: time and memory
do not depend on them. The ways take turns.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.variants import even_taps
from mmdet_seg.probes.feature_build import build_store
from mmdet_seg.probes.frozen_encoder import FrozenEncoder, open_encoder
from mmdet_seg.probes.probe_bank import ProbeBank, ProbeSpec
from mmdet_seg.probes.protocols import get_protocol
from mmdet_seg.probes.quantized_encoder import quantize_encoder
from mmdet_seg.probes.segment_train import ProbeTrainer

ONE, MANY, STORED = 'one probe', '16 probes', '16 probes from the store'
STORED_ONE = 'one probe from the store'
PLAIN, INT8 = 'encoder, bf16', 'encoder, int8 weights'
CLASSES = 150
_LAYERS, _RATES = 4, (1e-3, 3e-4, 1e-4, 4e-5)


@dataclass(frozen=True)
class Row:
    """One way.

    Attributes:
        name: Of the way.
        seconds: Of a step, median over the rounds.
        ratio: Time of this way over that of ``beside``, median over the rounds.
        beside: The way that it is compared with.
        weight_bytes: Of the encoder's weights; None where they do not matter.
        difference: Relative error (rms) of the features of the deepest layer; None likewise.
    """

    name: str
    seconds: float
    ratio: float | None
    beside: str | None
    weight_bytes: int | None = None
    difference: float | None = None


def run(
    arch: str = '300m-448px-v2-5',
    crop: int = 504,
    batch: int = 2,
    rounds: int = 3,
    views: int = 8,
    classes: int = CLASSES,
    device: str = 'cpu',
    quantize: bool = True,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure all ways in turns.

    Args:
        arch: Name of an encoder of the table.
        crop: Side of the views, pixels.
        batch: Views of a step.
        rounds: Steps of every way; one more of each goes before.
        views: That the store holds.
        classes: Of the labels.
        device: Where everything runs.
        quantize: Measure the int8 encoder too.
        progress: Called with a line before each part.
    """
    encoder = open_encoder(f'random:{arch}').to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(views, 3, crop, crop, generator=generator)
    labels = torch.randint(0, classes, (views, crop, crop), generator=generator)
    layers = even_taps(encoder.depth, min(_LAYERS, encoder.depth))
    bench = _Bench(encoder, images, labels, layers, batch, classes)
    with tempfile.TemporaryDirectory() as folder:
        progress(f'{views} views of {crop} x {crop} into the store, layers {layers}')
        bench.store = build_store(
            encoder, bench, {'job': 'benchmark'}, layers, folder, batch_size=batch
        )
        ways: dict[str, Callable[[], Any]] = {
            ONE: lambda: bench.step(bench.one),
            MANY: lambda: bench.step(bench.many),
            STORED_ONE: lambda: bench.stored_step(bench.one),
            STORED: lambda: bench.stored_step(bench.many),
            PLAIN: lambda: bench.features(encoder),
        }
        changed = None
        if quantize:
            other = open_encoder(f'random:{arch}').to(device)
            changed = quantize_encoder(other, 'int8', images[:1])
            ways[INT8] = lambda: bench.features(other)
        seconds = {name: [] for name in ways}
        for i in range(rounds + 1):
            progress(f'round {i} of {rounds}' if i else 'one round to warm up')
            for name, way in ways.items():
                started = _now(device)
                way()
                if i:
                    seconds[name].append(_now(device) - started)
    rows = [_row(name, seconds) for name in ways]
    if changed is not None:
        rows = [_with_weights(row, changed, layers[-1]) for row in rows]
    return rows


class _Bench:
    """Views and probes."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        images: Tensor,
        labels: Tensor,
        layers: tuple[int, ...],
        batch: int,
        classes: int,
    ) -> None:
        self.encoder, self.images, self.labels = encoder, images, labels
        self.batch, self.device = batch, encoder.device
        specs = [ProbeSpec((layer,), lr=rate) for layer in layers for rate in _RATES]
        self.many = self._trainer(specs, classes)
        self.one = self._trainer(specs[-1:], classes)  # on the deepest layer, as the others
        self.store: Any = None

    def _trainer(self, specs: list[ProbeSpec], classes: int) -> ProbeTrainer:
        bank = ProbeBank(specs, self.encoder.embed_dim, classes).to(self.device)
        return ProbeTrainer(bank, get_protocol('internvit'))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def step(self, trainer: ProbeTrainer) -> None:
        images = self.images[: self.batch].to(self.device)
        found = self.encoder.features(images, trainer.bank.layers)
        labels = self.labels[: self.batch].to(self.device)
        trainer.train_step({i: f.patches for i, f in found.items()}, labels)

    def stored_step(self, trainer: ProbeTrainer) -> None:
        batch, at = self.batch, trainer.step
        reader = self.store.batches(batch, start=at, stop=at + 1, layers=trainer.bank.layers)
        for found, labels in reader:
            patches = {i: f.patches.to(self.device) for i, f in found.items()}
            trainer.train_step(patches, labels.to(self.device))

    def features(self, encoder: FrozenEncoder) -> None:
        images = self.images[: self.batch].to(self.device)
        encoder.features(images, [encoder.depth - 1])


def _row(name: str, seconds: dict[str, list[float]]) -> Row:
    beside = {MANY: ONE, STORED_ONE: ONE, STORED: MANY, INT8: PLAIN}.get(name)
    ratio = None
    if beside:
        pairs = zip(seconds[name], seconds[beside], strict=True)
        ratio = median(a / b for a, b in pairs)
    return Row(name, median(seconds[name]), ratio, beside)


def _with_weights(row: Row, report: Any, deepest: int) -> Row:
    """The row with what quantisation changed, where it is about that."""
    if row.name == PLAIN:
        return replace(row, weight_bytes=report.bytes_before)
    if row.name == INT8:
        error = report.errors[deepest]['rms']
        return replace(row, weight_bytes=report.bytes_after, difference=error)
    return row


def _now(device: str) -> float:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| way | step, s | compared | weights, MiB | features differ, rms |',
        '|---|---|---|---|---|',
    ]
    for row in rows:
        compared = ''
        if row.ratio is not None and row.name in (STORED_ONE, STORED):
            compared = f'{1 / row.ratio:.1f} x the steps of {row.beside}'
        elif row.ratio is not None:
            compared = f'{row.ratio:.2f} x the time of {row.beside}'
        weights = '' if row.weight_bytes is None else f'{row.weight_bytes / 2**20:.0f}'
        error = '' if row.difference is None else f'{row.difference:.1e}'
        lines.append(f'| {row.name} | {row.seconds:.3f} | {compared} | {weights} | {error} |')
    return '\n'.join(lines)
