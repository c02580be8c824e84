"""What heads read: pooled features from disk or from images, tokens where a head pools by itself.

Shapes: B images, K prefix tokens, N patches, D channels, F features of a head.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdet_seg.datasets.position_sampler import Draw, PositionSampler
from mmdet_seg.probes.classify_heads import WITH_WEIGHTS, Pooled, all_tokens, joined, pool
from mmdet_seg.probes.classify_views import Targets, Views, batches
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.labelled_images import LabelledImages
from mmdet_seg.probes.pooled_store import PooledStore, stored
from mmdet_seg.probes.progress import Progress


class Reads(NamedTuple):
    """Which blocks some heads read, pooled and as tokens; ascending, from 0."""

    pooled: tuple[int, ...]
    tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, wanted: Iterable[tuple[Sequence[int], str]]) -> 'Reads':
        """Of heads that read (layers, pooling)."""
        pooled, tokens = set(), set()
        for layers, pooling in wanted:
            (tokens if pooling in WITH_WEIGHTS else pooled).update(layers)
        return cls(tuple(sorted(pooled)), tuple(sorted(tokens)))

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(sorted({*self.pooled, *self.tokens}))


class Inputs:
    """Features of a batch, joined once for all heads that read the same.

    Args:
        pooled: Block to class token and mean patch.
        tokens: Block to (B, K + N, D).
        device: Of the heads.
    """

    def __init__(
        self,
        pooled: Mapping[int, Pooled],
        tokens: Mapping[int, Tensor] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        self._pooled, self._tokens, self._device = pooled, tokens or {}, device
        self._joined: dict[tuple, Tensor] = {}

    def of(self, layers: Sequence[int], pooling: str) -> Tensor:
        """(B, F), or (B, K + N, D) where the pooling has weights; float32."""
        key = (tuple(layers), pooling)
        if key not in self._joined:
            if pooling in WITH_WEIGHTS:
                found = self._tokens[layers[-1]].float()
            else:
                found = joined(self._pooled, layers, pooling)
            self._joined[key] = found.to(self._device)
        return self._joined[key]


def read_images(reader: Reader, images: Tensor, reads: Reads) -> Inputs:
    """Features of images (B, 3, S, S), a part of the batch at a time."""
    parts = [reader.features(part, reads.all) for part in images.split(reader.batch)]
    pools = {layer: [pool(p[layer]) for p in parts] for layer in reads.pooled}
    pooled = {
        layer: Pooled(
            None if found[0].token is None else torch.cat([p.token for p in found]),
            torch.cat([p.mean for p in found]),
        )
        for layer, found in pools.items()
    }
    tokens = {layer: torch.cat([all_tokens(p[layer]) for p in parts]) for layer in reads.tokens}
    return Inputs(pooled, tokens, reader.encoder.device)


class FreshViews:
    """New views at every step, as published: the encoder runs on all of them.

    Args:
        reader: The encoder.
        images: To train on.
        views: How they are cut and mixed.
        reads: What the heads read.
        batch: Images of a step.
    """

    fixed = 0

    def __init__(
        self, reader: Reader, images: LabelledImages, views: Views, reads: Reads, batch: int
    ) -> None:
        self.reader, self.images, self.views = reader, images, views
        self.reads, self.batch = reads, batch

    def steps(self, start: int, stop: int) -> Iterator[tuple[Inputs, Targets]]:
        """Batches ``start`` to ``stop - 1`` of the run."""
        order = PositionSampler(self.images, seed=self.views.seed)
        order.start = start * self.batch
        draws = _Endless(order, (stop - start) * self.batch)
        source = batches(self.images, self.views, draws, self.batch, workers=self.reader.workers)
        device = self.reader.encoder.device
        for found in source:
            inputs = read_images(self.reader, found.images, self.reads)
            yield inputs, Targets(*(t.to(device) for t in found.targets))


class StoredViews:
    """A few views of every image, stored once; epoch e reads view e mod V in an order of its own.

    Args:
        reader: The encoder.
        images: To train on.
        views: How they are cut and mixed.
        reads: What the heads read.
        batch: Images of a step.
        count: V.
        root: Folder of stores.

    Raises:
        ValueError: A head pools by itself: whole maps of tokens are not stored.
    """

    def __init__(
        self,
        reader: Reader,
        images: LabelledImages,
        views: Views,
        reads: Reads,
        batch: int,
        count: int,
        root: Path,
    ) -> None:
        if reads.tokens:
            raise ValueError(
                '--views keeps pooled features, and attention pooling reads all tokens: leave '
                '--views out, or take --pool cls_patch_concat.'
            )
        self.fixed, self.reads, self.batch, self.seed = count, reads, batch, views.seed
        self.device, size = reader.encoder.device, len(images)
        order, self.passes = PositionSampler(images, seed=views.seed), []
        if views.same_each_time:
            what = 'features of the training images'
            self.fixed = 1
            self.passes.append(stored(reader, images, views, reads.pooled, root, what=what))
            return
        for i in range(count):
            order.start = i * size
            draws = list(islice(iter(order), size))
            what = f'training views {i + 1}/{count}'
            mixed = batch if views.mixup or views.cutmix else None
            # Passes have names of their own, so that asking for more of them keeps the first ones.
            self.passes.append(
                stored(
                    reader, images, views, reads.pooled, root, draws=draws, batch=mixed, what=what
                )
            )

    def steps(self, start: int, stop: int) -> Iterator[tuple[Inputs, Targets]]:
        """Batches ``start`` to ``stop - 1`` of the run."""
        size, order, at = len(self.passes[0]), None, None
        for step in range(start, stop):
            rows = np.arange(step * self.batch, (step + 1) * self.batch)
            parts = []
            for epoch in np.unique(rows // size):
                if epoch != at:
                    generator = torch.Generator().manual_seed(1_000_003 * int(epoch) + self.seed)
                    order, at = torch.randperm(size, generator=generator).numpy(), epoch
                mine = order[rows[rows // size == epoch] % size]
                parts.append((self.passes[epoch % self.fixed], mine))
            yield self._batch(parts)

    def _batch(self, parts: list[tuple[PooledStore, np.ndarray]]) -> tuple[Inputs, Targets]:
        found = [store.read(rows, self.reads.pooled) for store, rows in parts]
        targets = [store.targets(rows) for store, rows in parts]
        pooled = {
            layer: Pooled(
                None
                if found[0][layer].token is None
                else torch.cat([f[layer].token for f in found]),
                torch.cat([f[layer].mean for f in found]),
            )
            for layer in self.reads.pooled
        }
        joined_targets = (torch.cat(t).to(self.device) for t in zip(*targets, strict=True))
        return Inputs(pooled, None, self.device), Targets(*joined_targets)


class EachOnce:
    """All images in order, as often as asked: from disk, or through the encoder for tokens.

    Iterating gives (rows, inputs) pairs.

    Args:
        reader: The encoder.
        images: All of them.
        views: How they are cut.
        reads: What the heads read.
        root: Folder of stores.
        what: For the lines of progress.
    """

    def __init__(
        self,
        reader: Reader,
        images: LabelledImages,
        views: Views,
        reads: Reads,
        root: Path,
        what: str,
    ) -> None:
        self.reader, self.images, self.views, self.reads = reader, images, views, reads
        self.what = what
        self.store = None
        if not reads.tokens:
            self.store = stored(reader, images, views, reads.pooled, root, what=what)

    def __iter__(self) -> Iterator[tuple[slice, Inputs]]:
        if self.store is not None:
            for rows, pooled in self.store.chunks(self.reads.pooled):
                yield rows, Inputs(pooled, None, self.reader.encoder.device)
            return
        progress, start = Progress(self.what, len(self.images)), 0
        order, reader = range(len(self.images)), self.reader
        for found in batches(self.images, self.views, order, reader.batch, workers=reader.workers):
            rows = slice(start, start + len(found.index))
            yield rows, read_images(reader, found.images, self.reads)
            start = rows.stop
            progress.add(len(found.index))
        progress.close()


class _Endless:
    """The first ``count`` draws of a sampler without a list of them."""

    def __init__(self, sampler: PositionSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def __iter__(self) -> Iterator[Draw]:
        return islice(iter(self.sampler), self.count)

    def __len__(self) -> int:
        return self.count
