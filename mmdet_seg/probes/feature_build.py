"""Run the encoder over fixed views and keep what comes out, see :mod:`.feature_store`.

Shapes: B views of a batch, T tokens kept of a view, D channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mmdet_seg.command_line import note
from mmdet_seg.probes.disk import in_one_line, only_writer, write_json
from mmdet_seg.probes.feature_labels import pack_labels
from mmdet_seg.probes.feature_plan import StorePlan, plan_store
from mmdet_seg.probes.feature_store import (
    INDEX,
    LAYER,
    FeatureStore,
    layer_name,
    num_shards,
    read_layer,
    shard_of,
)
from mmdet_seg.probes.frozen_encoder import FrozenEncoder, LayerFeatures
from mmdet_seg.probes.weights_hash import hash_of

_REMEDY = (
    'What is complete stays; make room or give another folder, then run the same command again.'
)


class Views(Protocol):
    """Fixed views: the same image and label every time an index is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | int]:
        """Image (3, H, W), normalised by the encoder's mean and std, and its integer label."""
        ...


def build_store(
    encoder: FrozenEncoder,
    dataset: Views,
    views: Mapping[str, Any],
    layers: Sequence[int],
    folder: str | Path,
    *,
    dtype: str = 'bf16',
    final_norm: bool = False,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """The store of these features: opened where it is complete, filled up where it is not.

    A shard that is whole counts, by its hash; so what a kill left is gone on with, and further
    layers join. A line on standard error says what it takes before anything is written.

    Args:
        encoder: Frozen.
        dataset: All views have one size; labels are integers 0 .. 65535 of one shape.
        views: What makes the views these: data, crop, resizing, flips, seed, views of an image.
            Anything JSON takes; part of the key.
        layers: Blocks, counted from 0 or negative from the last.
        folder: Where stores lie, one in a folder of its own for every key.
        dtype: ``bf16``, ``fp16``, ``fp32`` or ``int8``; the loss is measured, see
            :meth:`FeatureStore.error`.
        final_norm: See :meth:`FrozenEncoder.features`.
        batch_size: Views that the encoder sees at once.
        device: Where the encoder runs; None is where it is.
        progress: Called with views done and views to do.

    Raises:
        ValueError: It does not fit on the disk, views or labels that cannot be kept, another
            process is writing the same store, or the folder cannot be written to.
    """
    if not len(dataset):
        raise ValueError('There is no view to keep features of.')
    image, label = dataset[0]
    plan = plan_store(
        encoder,
        len(dataset),
        tuple(image.shape[-2:]),
        views,
        layers,
        folder,
        dtype=dtype,
        final_norm=final_norm,
        label_shape=torch.as_tensor(label).shape,
    ).check()
    if plan.complete:  # its shards are compared with their hashes when they are read
        return FeatureStore(plan.folder, key=plan.index['key'])
    note(plan.text())
    try:
        with in_one_line(_REMEDY, plan.folder), only_writer(plan.folder):
            _Filling(plan, encoder, dataset, device or encoder.device).run(batch_size, progress)
    except KeyboardInterrupt:
        note(f'What is complete stays in {plan.folder}; the same command goes on from there.')
        raise
    return FeatureStore(plan.folder, key=plan.index['key'])


class _Filling:
    """Writes what a plan lacks, shard after shard."""

    def __init__(
        self, plan: StorePlan, encoder: FrozenEncoder, dataset: Views, device: Any
    ) -> None:
        self.plan, self.dataset = plan, dataset
        self.encoder, self.device = encoder.to(device), device
        self.final_norm: bool = plan.index['of']['final_norm']
        self.fitted: dict[int, dict[str, Any]] = {}

    def run(self, batch_size: int, progress: Callable[[int, int], None] | None) -> None:
        """Write all that is missing."""
        self._write_index()
        num_views, per_shard = self.plan.index['num_views'], self.plan.index['per_shard']
        count = num_shards(num_views, per_shard)
        work = {i: self._missing(i) for i in range(count)}
        work = {i: names for i, names in work.items() if names}
        ranges = {
            i: range(i * per_shard, min((i + 1) * per_shard, num_views)) for i in sorted(work)
        }
        total, done = sum(map(len, ranges.values())), 0
        for i, indices in ranges.items():
            labels, layers = 'labels' in work[i], [x for x in work[i] if x != 'labels']
            for batch in self._fill(i, indices, layers, labels, batch_size):
                done += batch
                if progress:
                    progress(done, total)

    def _write_index(self) -> None:
        folder = self.plan.folder
        if not (folder / INDEX).is_file():
            write_json(folder / INDEX, self.plan.index)

    def _missing(self, number: int) -> list[Any]:
        """Layers, and ``labels``, that this shard lacks; what is there is read to the last byte."""
        folder = self.plan.folder
        names: dict[Any, str] = {'labels': 'labels'}
        names |= {layer: layer_name(layer) for layer in self.plan.layers}
        return [key for key, name in names.items() if not self._counts(key, folder / name, number)]

    def _counts(self, key: Any, folder: Path, number: int) -> bool:
        shard = shard_of(folder, number)
        facts = shard.facts()
        if facts is None or (key != 'labels' and facts.get('layer') != hash_of(read_layer(folder))):
            return False
        return shard.is_intact()

    def _fill(
        self, number: int, indices: range, layers: list[int], labels: bool, batch_size: int
    ) -> Iterator[int]:
        """Write a shard of every layer in ``layers``, and the labels if asked; yields batches."""
        kept: list[Tensor] = []
        records: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for start in range(indices.start, indices.stop, batch_size):
            chosen = range(start, min(start + batch_size, indices.stop))
            found = [self.dataset[i] for i in chosen]
            kept += [torch.as_tensor(label) for _, label in found]
            if layers:
                images = self._stack([image for image, _ in found], chosen)
                features = self.encoder.features(images, layers, final_norm=self.final_norm)
                for layer in layers:
                    tokens = self._tokens(features[layer])
                    fitted = self._fit(layer, tokens)
                    records[layer].append(self.plan.codec.encode(tokens, fitted))
            yield len(chosen)
        if labels:
            parts, facts = pack_labels(kept)
            shard_of(self.plan.folder / 'labels', number).write(parts, **facts)
        for layer in layers:
            shard = shard_of(self.plan.folder / layer_name(layer), number)
            shard.write(records.pop(layer), layer=hash_of(self.fitted[layer]))

    def _stack(self, images: list[Tensor], chosen: range) -> Tensor:
        size = tuple(self.plan.index['of']['size'])
        for index, image in zip(chosen, images, strict=True):
            if tuple(image.shape[-2:]) != size:
                raise ValueError(
                    f'View {index} has {"x".join(map(str, image.shape[-2:]))} pixels, the first '
                    f'one {size[0]}x{size[1]}: a store takes views of one size.'
                )
        return torch.stack(images).to(self.device)

    def _tokens(self, features: LayerFeatures) -> Tensor:
        """(B, T, D): prefix, then patches."""
        patches = features.patches.flatten(2).transpose(1, 2)
        return torch.cat([features.prefix, patches], dim=1)

    def _fit(self, layer: int, tokens: Tensor) -> dict[str, Any]:
        """What the codec needs, found once for a layer and kept with what it loses."""
        if layer in self.fitted:
            return self.fitted[layer]
        folder = self.plan.folder / layer_name(layer)
        fitted = read_layer(folder)
        if fitted is None:
            folder.mkdir(parents=True, exist_ok=True)
            fitted = self.plan.codec.fit(tokens)
            fitted['error'] = self.plan.codec.error(tokens, fitted)
            write_json(folder / LAYER, fitted)
        self.fitted[layer] = fitted
        return fitted
