"""What a feature store will take on disk, said before the encoder runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_seg.probes.disk import MARGIN, free_bytes, gib
from mmdet_seg.probes.feature_codec import DTYPES, Codec, check_dtype
from mmdet_seg.probes.feature_store import (
    INDEX,
    layer_name,
    num_shards,
    read_index,
    read_layer,
    shard_of,
)
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.weights_hash import hash_of

_SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class StorePlan:
    """A store before it is there.

    Attributes:
        folder: Its own folder, named by the key.
        index: What ``store.json`` will hold.
        codec: How tokens are written.
        layers: Layers that are wanted, ascending.
        bytes_per_layer: Of all views.
        label_bytes: Of all views, before they are compressed.
        present: Bytes that an earlier run left and that count.
        complete: Whether nothing has to be written.
        free: Bytes free where the store will be.
    """

    folder: Path
    index: dict[str, Any]
    codec: Codec
    layers: tuple[int, ...]
    bytes_per_layer: int
    label_bytes: int
    present: int
    complete: bool
    free: int

    @property
    def num_bytes(self) -> int:
        """Of the layers that are wanted and the labels."""
        return self.bytes_per_layer * len(self.layers) + self.label_bytes

    @property
    def missing(self) -> int:
        """Bytes that are still to be written."""
        return 0 if self.complete else max(self.num_bytes - self.present, 0)

    def text(self) -> str:
        """One line: how much, of what, what is there already."""
        there = f', {gib(self.present)} of it there already' if self.present else ''
        return (
            f'Features of {self.index["num_views"]} views, {len(self.layers)} '
            f'layer{"s" * (len(self.layers) > 1)} as '
            f'{self.codec.dtype}: {gib(self.num_bytes)} in {self.folder}{there}; '
            f'{gib(self.free)} free.'
        )

    def check(self) -> 'StorePlan':
        """The plan, if it fits.

        Raises:
            ValueError: It does not.
        """
        if self.complete or self.missing + MARGIN <= self.free:
            return self
        ways = ['fewer views']
        if len(self.layers) > 1:
            ways.append(f'fewer layers ({gib(self.bytes_per_layer)} each)')
        if self.codec.dtype != 'int8':
            half = self.num_bytes * DTYPES['int8'].itemsize / DTYPES[self.codec.dtype].itemsize
            ways.append(f'int8 (about {gib(half)})')
        raise ValueError(
            f'Features of {self.index["num_views"]} views and {len(self.layers)} '
            f'layer{"s" * (len(self.layers) > 1)} as '
            f'{self.codec.dtype} take {gib(self.missing)} more and {self.folder.parent} has '
            f'{gib(self.free)} free: {", ".join(ways)}, or a folder on another disk.'
        )


def plan_store(
    encoder: FrozenEncoder,
    num_views: int,
    size: tuple[int, int],
    views: Mapping[str, Any],
    layers: Sequence[int],
    folder: str | Path,
    *,
    dtype: str = 'bf16',
    final_norm: bool = False,
    label_shape: Sequence[int] = (),
) -> StorePlan:
    """What :func:`mmdet_seg.probes.feature_build.build_store` would write; nothing is written.

    Args:
        encoder: Whose features.
        num_views: n.
        size: (H, W) of every view, pixels.
        views: See ``build_store``, as are the rest.
        layers: See there.
        folder: See there.
        dtype: See there.
        final_norm: See there.
        label_shape: Of one view's label; a byte a value is reckoned with.

    Raises:
        ValueError: Something that cannot be kept.
    """
    if num_views < 1:
        raise ValueError('There is no view to keep features of.')
    chosen = tuple(sorted(set(encoder.check_layers(layers))))
    P = encoder.patch_size
    if size[0] % P or size[1] % P:
        raise ValueError(
            f'Views of {size[0]}x{size[1]} pixels are no multiple of the patch of {encoder.name}, '
            f'{P}: choose another crop.'
        )
    grid = (size[0] // P, size[1] // P)
    K, D = encoder.num_prefix_tokens, encoder.embed_dim
    codec = Codec(check_dtype(dtype), K + grid[0] * grid[1], D)
    own = str(encoder.dtype).removeprefix('torch.')
    of = {
        'encoder': encoder.identity,
        'computed_in': own,
        'final_norm': final_norm,
        'mean': list(encoder.mean),
        'std': list(encoder.std),
        'views': dict(views),
        'num_views': num_views,
        'size': list(size),
        'stored_as': dtype,
    }
    key = hash_of(of)
    index = {
        'format': 1,
        'key': key,
        'of': of,
        'name': encoder.name,
        'num_views': num_views,
        'per_shard': max(1, min(num_views, _SHARD_BYTES // codec.record_bytes)),
        'grid': list(grid),
        'embed_dim': D,
        'num_prefix_tokens': K,
        'dtype': own if dtype == 'int8' else str(DTYPES[dtype]).removeprefix('torch.'),
    }
    own_folder = Path(folder) / key[:16]
    if (own_folder / INDEX).is_file():  # as it was begun
        index = read_index(own_folder)
        if index['key'] != key:
            raise ValueError(f'{own_folder} holds another store (key {index["key"][:24]}).')
    return StorePlan(
        own_folder,
        index,
        codec,
        chosen,
        num_views * codec.record_bytes,
        num_views * math.prod(label_shape),
        *_present(own_folder, index, chosen),
        free_bytes(Path(folder)),
    )


def _present(folder: Path, index: Mapping[str, Any], layers: Sequence[int]) -> tuple[int, bool]:
    """Bytes that are there, and whether that is all."""
    num_bytes, complete = 0, True
    for name in ['labels', *map(layer_name, layers)]:
        fitted = None if name == 'labels' else hash_of(read_layer(folder / name))
        for i in range(num_shards(index['num_views'], index['per_shard'])):
            facts = shard_of(folder / name, i).facts()
            if facts is None or facts.get('layer') != fitted:
                complete = False
            else:
                num_bytes += facts['bytes']
    return num_bytes, complete
