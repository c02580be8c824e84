"""Features of fixed views on disk: the encoder runs once, whatever is trained on them afterwards.

::

    FOLDER/<key>/store.json            what the key is the hash of, sizes
                 labels/00000.bin      labels of the first views, compressed where it pays
                 layer_05/layer.json   what the codec found, and the stated error
                 layer_05/00000.bin    tokens of the first views, prefix first, patches row-major

The key is the hash of the encoder's weights, its preprocessing, the description of the views, what
is kept and in which precision. Layers lie beside each other, so another layer joins a store.

Shapes: B views, (H, W) pixels, (h, w) grid, K prefix tokens, D channels, n views of the store.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.probes.feature_codec import Codec
from mmdet_seg.probes.feature_labels import read_labels
from mmdet_seg.probes.feature_shards import Shard
from mmdet_seg.probes.frozen_encoder import LayerFeatures
from mmdet_seg.probes.weights_hash import hash_of

INDEX, LAYER = 'store.json', 'layer.json'


class FeatureStore:
    """A store on disk; :func:`mmdet_seg.probes.feature_build.build_store` makes it.

    Args:
        folder: The store's own folder, the one with ``store.json``.
        key: The key that it must have; None takes what is there.

    Attributes:
        layers: Layers that are complete.
        num_views: n.
        grid: (h, w).
        embed_dim: D.
        num_prefix_tokens: K.
        dtype: What tokens come back in.
        of: What the key is the hash of.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It has another key, or a file of it is broken.
    """

    def __init__(self, folder: str | Path, *, key: str | None = None) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if key is not None and index['key'] != key:
            raise ValueError(
                f'{self.folder} holds the features of another encoder or of other views (key '
                f'{index["key"][:12]}, not {key[:12]}): give another folder.'
            )
        self.key, self.of = index['key'], index['of']
        self.num_views, self.per_shard = index['num_views'], index['per_shard']
        self.grid: tuple[int, int] = tuple(index['grid'])
        self.embed_dim, self.num_prefix_tokens = index['embed_dim'], index['num_prefix_tokens']
        self.dtype = getattr(torch, index['dtype'])
        num_tokens = self.num_prefix_tokens + self.grid[0] * self.grid[1]
        self.codec = Codec(self.of['stored_as'], num_tokens, self.embed_dim)
        self.layers = tuple(sorted(int(p.name[6:]) for p in self.folder.glob('layer_[0-9]*')))
        self.layers = tuple(x for x in self.layers if self._is_complete(x))
        self._fitted: dict[int, dict[str, Any]] = {}
        self._shards: dict[tuple[str, int], Any] = {}

    def __len__(self) -> int:
        return self.num_views

    @property
    def disk_bytes(self) -> int:
        """Of everything in it."""
        return sum(p.stat().st_size for p in self.folder.rglob('*') if p.is_file())

    def error(self, layer: int) -> dict[str, float]:
        """What storing lost, measured on the layer's first views.

        ``rms`` of the difference over that of the features, ``max`` likewise of the largest values,
        and ``cosine`` of the token that came back worst.
        """
        return self._layer(layer)['error']

    def batch(
        self,
        indices: Sequence[int],
        layers: Sequence[int] | None = None,
        *,
        labels: bool = True,
    ) -> tuple[dict[int, LayerFeatures], Tensor | None]:
        """Features and labels of some views, on the CPU.

        Args:
            indices: Views, 0 .. n - 1.
            layers: Of those that are complete; None is all.
            labels: False leaves them on disk.

        Returns:
            Layer to prefix (B, K, D) and patches (B, D, h, w); int64 labels (B, ...) as the views
            gave them.

        Raises:
            ValueError: A view or layer that is not there, or a file that has changed.
        """
        indices, K = [self._checked(i) for i in indices], self.num_prefix_tokens
        out = {}
        for layer in self.layers if layers is None else layers:
            fitted = self._layer(layer)
            records = torch.stack([self._record(layer, i) for i in indices])
            tokens = self.codec.decode(records, fitted, self.dtype)
            patches = tokens[:, K:].unflatten(1, self.grid).permute(0, 3, 1, 2)
            out[layer] = LayerFeatures(tokens[:, :K], patches)
        return out, self.labels(indices) if labels else None

    def labels(self, indices: Sequence[int]) -> Tensor:
        """int64 labels (B, ...) of some views."""
        found = []
        for i in indices:
            shard, row = divmod(self._checked(i), self.per_shard)
            found.append(self._opened('labels', shard)[row])
        return torch.stack(found)

    def order(self, step: int, batch_size: int, seed: int = 0) -> list[int]:
        """Views of a training step: every view once, in another order each time around."""
        first, found = step * batch_size, []
        for position in range(first, first + batch_size):
            around, place = divmod(position, self.num_views)
            found.append(self._permutation(seed, around)[place])
        return found

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        start: int = 0,
        stop: int | None = None,
        layers: Sequence[int] | None = None,
    ) -> Iterator[tuple[dict[int, LayerFeatures], Tensor]]:
        """Batches of steps ``start`` to ``stop - 1`` (without end); the next one is read meanwhile.

        What a step gets depends on its number and the seed alone, so a resumed run goes on.
        """
        with ThreadPoolExecutor(1) as pool:

            def read(step: int) -> Any:
                return pool.submit(self.batch, self.order(step, batch_size, seed), layers)

            step, ahead = start, None
            while stop is None or step < stop:
                current = ahead or read(step)
                step += 1
                ahead = read(step) if stop is None or step < stop else None
                yield current.result()

    def verify(self) -> None:
        """Read everything and compare it with the hashes.

        Raises:
            ValueError: A file has changed.
        """
        for name in ['labels', *map(layer_name, self.layers)]:
            for i in range(num_shards(self.num_views, self.per_shard)):
                self._opened(name, i)

    def _permutation(self, seed: int, around: int) -> list[int]:
        cached = getattr(self, '_order', {})
        if (seed, around) not in cached:
            number = int(hash_of(seed, around)[:15], 16)
            generator = torch.Generator().manual_seed(number)
            cached = {k: v for k, v in cached.items() if k[0] == seed and k[1] >= around - 1}
            cached[seed, around] = torch.randperm(self.num_views, generator=generator).tolist()
            self._order = cached
        return cached[seed, around]

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.num_views:
            raise ValueError(f'View {index} is not one of the {self.num_views} of {self.folder}.')
        return int(index)

    def _is_complete(self, layer: int) -> bool:
        shards = range(num_shards(self.num_views, self.per_shard))
        folder = self.folder / layer_name(layer)
        fitted = hash_of(read_layer(folder))
        facts = (shard_of(folder, i).facts() for i in shards)
        return all(x is not None and x.get('layer') == fitted for x in facts)

    def _layer(self, layer: int) -> dict[str, Any]:
        if layer not in self.layers:
            have = ', '.join(map(str, self.layers)) or 'none'
            raise ValueError(f'{self.folder} has no features of layer {layer}; it has: {have}.')
        if layer not in self._fitted:
            content = dict(read_layer(self.folder / layer_name(layer)) or {})
            if 'scale' in content:
                content['scale'] = torch.tensor(content['scale'])
            self._fitted[layer] = content
        return self._fitted[layer]

    def _record(self, layer: int, index: int) -> Tensor:
        shard, row = divmod(index, self.per_shard)
        size = self.codec.record_bytes
        return self._opened(layer_name(layer), shard)[row * size : (row + 1) * size]

    def _opened(self, name: str, number: int) -> Any:
        """A shard, compared with its hash when it is first read; labels come unpacked."""
        if (name, number) not in self._shards:
            shard = shard_of(self.folder / name, number)
            content = shard.read()
            if name == 'labels':
                content = read_labels(content, shard.facts())
            self._shards[name, number] = content
        return self._shards[name, number]


def read_index(folder: Path) -> dict[str, Any]:
    """``store.json``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        if index['format'] != 1:
            raise ValueError(f'{folder} was written by a later version of mmdet_seg; update it.')
        if index['key'] != hash_of(index['of']):
            raise KeyError('key')
    except FileNotFoundError:
        raise FileNotFoundError(f'{folder} is no feature store: it has no {INDEX}.') from None
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{folder / INDEX} cannot be read: delete {folder}.') from error
    return index


def read_layer(folder: Path) -> dict[str, Any] | None:
    """``layer.json``; None where there is none that can be read."""
    try:
        content = json.loads((folder / LAYER).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and 'error' in content else None


def layer_name(layer: int) -> str:
    """Folder of a layer."""
    return f'layer_{layer:02d}'


def shard_of(folder: Path, number: int) -> Shard:
    """A shard of a layer or of the labels."""
    return Shard(folder / f'{number:05d}.bin')


def num_shards(num_views: int, per_shard: int) -> int:
    """Shards that hold all views."""
    return -(-num_views // per_shard)
