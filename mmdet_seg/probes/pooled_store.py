"""Pooled features on disk: the encoder runs once over fixed views, whatever reads them afterwards.

A folder holds memory-mapped arrays in float32 (class token, mean patch of every layer, targets) and
``state.json``: the key, what is done and checksums. A killed run goes on with the chunk it was at;
a chunk that does not have its checksum is computed again; other weights, images, views or layers
are another folder.

Shapes: n images, B images of a chunk, D channels.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdet_seg import command_line
from mmdet_seg.probes.classify_heads import Pooled, pool
from mmdet_seg.probes.classify_views import Batch, Targets, Views, batches
from mmdet_seg.probes.disk import MARGIN, free_bytes, gib, in_one_line, only_writer, write_json
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.labelled_images import LabelledImages
from mmdet_seg.probes.progress import Progress
from mmdet_seg.probes.weights_hash import hash_of

_EVERY = 5.0  # seconds between two saves
_CHUNK = 256  # images, where none are mixed; the same in every run that goes on
_REMEDY = (
    'What is complete stays; make room or give another --store, then run the same command again.'
)


class PooledStore:
    """Stored features of ``n`` views, in the order in which they were drawn."""

    def __init__(self, folder: Path, layers: Sequence[int], has_token: bool) -> None:
        self.folder, self.layers, self.has_token = folder, tuple(layers), has_token
        self.arrays = {
            name: np.load(folder / f'{name}.npy', mmap_mode='r')
            for name in _names(layers, has_token)
        }

    def __len__(self) -> int:
        return len(self.arrays['index'])

    @property
    def num_bytes(self) -> int:
        return sum(a.nbytes for a in self.arrays.values())

    def read(self, rows: slice | np.ndarray, layers: Sequence[int]) -> dict[int, Pooled]:
        """Features of some views: (B, D) each."""
        return {layer: self._layer(layer, rows) for layer in layers}

    def targets(self, rows: slice | np.ndarray) -> Targets:
        classes = torch.from_numpy(np.array(self.arrays['classes'][rows]))
        return Targets(classes, torch.from_numpy(np.array(self.arrays['weights'][rows])))

    def chunks(self, layers: Sequence[int], size: int = 2048) -> Iterator[tuple[slice, dict]]:
        """Everything, a part at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.read(rows, layers)

    def _layer(self, layer: int, rows: slice | np.ndarray) -> Pooled:
        def of(kind: str) -> Tensor:
            return torch.from_numpy(np.array(self.arrays[f'{kind}_{layer:02d}'][rows]))

        return Pooled(of('token') if self.has_token else None, of('mean'))


def stored(
    reader: Reader,
    images: LabelledImages,
    views: Views,
    layers: Sequence[int],
    root: Path,
    *,
    draws: Sequence[int] | None = None,
    batch: int | None = None,
    what: str = 'features',
) -> PooledStore:
    """Features of views, from disk where they are, else computed and kept.

    Args:
        reader: The encoder.
        images: All of them.
        views: How they are cut and mixed.
        layers: Blocks, from 0.
        root: Folder of stores.
        draws: Which to read and in which order; None is each once. Part of the key.
        batch: Images that are mixed with each other; None where nothing is mixed.
        what: For the lines of progress.

    Raises:
        ValueError: They do not fit on the disk; the line says how much is needed.
    """
    draws = list(range(len(images))) if draws is None else list(draws)
    places = [(int(d), getattr(d, 'position', int(d))) for d in draws]
    batch = batch or _CHUNK
    key = {
        'encoder': reader.encoder.identity,
        'dtype': str(reader.encoder.dtype),
        'device': reader.encoder.device.type,
        'final_norm': reader.final_norm,
        'images': images.identity,
        'views': asdict(views),
        'draws': zlib.crc32(np.asarray(places).tobytes()),
        'mixed in': batch if views.mixup or views.cutmix else None,
        'layers': list(layers),
        'format': 1,
    }
    layers = key['layers'] = _also_there(Path(root), key, len(draws))
    folder = Path(root) / hash_of(key)[:16]
    has_token = reader.encoder.num_prefix_tokens > 0
    with in_one_line(_REMEDY, folder), only_writer(folder, wait=True):
        state = _State(folder, key, layers, len(draws), reader.encoder.embed_dim, has_token)
        starts = [s for s in range(0, len(draws), batch) if not state.done(s)]
        if starts:
            _compute(reader, images, views, layers, draws, batch, state, starts, what)
    store = PooledStore(folder, layers, has_token)
    reader.cost.disk += store.num_bytes
    return store


def _also_there(root: Path, key: dict[str, Any], count: int) -> list[int]:
    """Layers of a whole store that has these and more of the same views, else these."""
    wanted = json.loads(json.dumps(key))
    for file in sorted(root.glob('*/state.json')):
        try:
            found = json.loads(file.read_text())
            layers, done = found['key']['layers'], sum(n for n, _ in found['chunks'].values())
        except (ValueError, KeyError, TypeError):
            continue
        same = {**found['key'], 'layers': wanted['layers']} == wanted
        if same and done == count and set(wanted['layers']) <= set(layers):
            return layers
    return list(key['layers'])


class _State:
    """What of a store is done."""

    def __init__(
        self, folder: Path, key: dict, layers: Sequence[int], count: int, dim: int, token: bool
    ) -> None:
        self.folder, self.file = folder, folder / 'state.json'
        self.key = json.loads(json.dumps(key))
        self.shapes = {
            name: (count, *(() if name == 'index' else (2,) if name in _OF_TARGETS else (dim,)))
            for name in _names(layers, token)
        }
        self.sums: dict[str, list[int]] = {}
        if self.file.is_file():
            try:
                found = json.loads(self.file.read_text())
                self.sums = found['chunks'] if found['key'] == self.key else {}
            except (ValueError, KeyError):
                self.sums = {}
        if any(not (folder / f'{name}.npy').is_file() for name in self.shapes):
            self.sums = {}
        if not self.sums:
            self._make()
        self.arrays = {n: np.load(folder / f'{n}.npy', mmap_mode='r+') for n in self.shapes}
        self._verify()

    def done(self, start: int) -> bool:
        return str(start) in self.sums

    def put(self, start: int, values: dict[str, np.ndarray]) -> None:
        """Write a chunk; it counts from :meth:`save` on."""
        count = len(values['index'])
        for name, value in values.items():
            self.arrays[name][start : start + count] = value
        self.sums[str(start)] = [count, self._sum(start, count)]

    def save(self) -> None:
        for array in self.arrays.values():
            array.flush()
        write_json(self.file, {'key': self.key, 'chunks': self.sums})

    def _make(self) -> None:
        need = sum(int(np.prod(s)) * _DTYPES.get(n, 4) for n, s in self.shapes.items())
        if need + MARGIN > (free := free_bytes(self.folder)):
            raise ValueError(
                f'The features take {gib(need)} and {self.folder.parent} has {gib(free)} free: '
                'take fewer --layers or --limit, or another --store.'
            )
        if need > 1 << 30:
            command_line.note(f'{gib(need)} of features in {self.folder}')
        for name, shape in self.shapes.items():
            kind = np.int64 if name in _DTYPES else np.float32
            file = self.folder / f'{name}.npy'
            np.lib.format.open_memmap(file, mode='w+', dtype=kind, shape=shape).flush()
            # Every block now: a disk that fills up later would end the process with SIGBUS.
            with file.open('r+b') as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)

    def _verify(self) -> None:
        wrong = [s for s, (count, sum_) in self.sums.items() if self._sum(int(s), count) != sum_]
        for start in wrong:
            del self.sums[start]
        if wrong:
            command_line.note(
                f'{self.folder}: {len(wrong)} damaged parts of the features are computed again.'
            )

    def _sum(self, start: int, count: int) -> int:
        total = 0
        for name in sorted(self.arrays):
            part = np.ascontiguousarray(self.arrays[name][start : start + count])
            total = zlib.crc32(part.view(np.uint8).reshape(-1), total)
        return total


_OF_TARGETS = ('classes', 'weights')
_DTYPES = {'index': 8, 'classes': 8}


def _names(layers: Sequence[int], has_token: bool) -> list[str]:
    kinds = ('token', 'mean') if has_token else ('mean',)
    return ['index', *_OF_TARGETS, *(f'{k}_{layer:02d}' for layer in layers for k in kinds)]


def _compute(
    reader: Reader,
    images: LabelledImages,
    views: Views,
    layers: Sequence[int],
    draws: list,
    batch: int,
    state: _State,
    starts: list[int],
    what: str,
) -> None:
    todo = [d for s in starts for d in draws[s : s + batch]]
    source = batches(images, views, todo, batch, workers=reader.workers)
    progress, saved = Progress(what, len(todo)), time.monotonic()
    try:
        for start, found in zip(starts, source, strict=True):
            state.put(start, _values(reader, found, layers))
            progress.add(len(found.index))
            if time.monotonic() - saved > _EVERY:
                state.save()
                saved = time.monotonic()
    finally:
        state.save()
    progress.close()


def _values(reader: Reader, found: Batch, layers: Sequence[int]) -> dict[str, np.ndarray]:
    values = {
        'index': found.index.numpy(),
        'classes': found.targets.classes.numpy(),
        'weights': found.targets.weights.numpy(),
    }
    parts = [reader.features(images, layers) for images in found.images.split(reader.batch)]
    for layer in layers:
        pooled = [pool(part[layer]) for part in parts]
        values[f'mean_{layer:02d}'] = torch.cat([p.mean for p in pooled]).cpu().numpy()
        if pooled[0].token is not None:
            values[f'token_{layer:02d}'] = torch.cat([p.token for p in pooled]).cpu().numpy()
    return values
