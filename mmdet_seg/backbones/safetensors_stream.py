"""Writing a safetensors file tensor by tensor; the library wants all of them in memory at once.

The format: 8 bytes little-endian length of the header, the header as JSON (name -> dtype, shape,
[start, end] in the data; ``__metadata__`` -> strings), padded with spaces to a multiple of 8 bytes,
then the tensors without gaps. Source: https://github.com/huggingface/safetensors#format.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: 'F64',
    torch.float32: 'F32',
    torch.float16: 'F16',
    torch.bfloat16: 'BF16',
    torch.int64: 'I64',
    torch.int32: 'I32',
    torch.uint8: 'U8',
    torch.bool: 'BOOL',
}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor to be written.

    Attributes:
        key: Stored name.
        shape: Its shape.
        dtype: Its dtype.
        read: Makes the tensor when its turn comes.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    path: Path,
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        path: The file; replaced where there is one.
        entries: The tensors. Wider dtypes are put first, which keeps all of them aligned.
        metadata: Strings for the header.
        progress: Called with the bytes of each tensor that is written.
    """
    with path.open('wb') as file:
        write_tensors(file.write, entries, metadata, progress)


def write_tensors(
    write: Callable[[Any], Any],
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> None:
    """As :func:`write_safetensors`, to anything that takes bytes."""
    entries = sorted(entries, key=lambda e: -e.dtype.itemsize)
    header: dict[str, dict] = {'__metadata__': dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + entry.num_bytes
        header[entry.key] = {
            'dtype': _NAMES[entry.dtype],
            'shape': list(entry.shape),
            'data_offsets': [start, end],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    write(len(text).to_bytes(8, 'little') + text)
    for entry in entries:
        tensor = entry.read()
        assert tuple(tensor.shape) == entry.shape, entry.key
        assert tensor.dtype == entry.dtype, entry.key
        write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        if progress is not None:
            progress(entry.num_bytes)


def split_shards(
    entries: Iterable[TensorEntry], limit: int, stem: str = 'model'
) -> tuple[dict[str, list[TensorEntry]], dict[str, Any] | None]:
    """Share tensors out to files as huggingface_hub does.

    Args:
        entries: The tensors, in order.
        limit: Bytes of a file, at most, unless one tensor is larger.
        stem: Of the files' names.

    Returns:
        Name of a file -> its tensors; the content of ``<stem>.safetensors.index.json``, None where
        one file holds everything.
    """
    shards: list[list[TensorEntry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.num_bytes
    if len(shards) == 1:
        return {f'{stem}.safetensors': shards[0]}, None
    num = len(shards)
    files = {f'{stem}-{i:05d}-of-{num:05d}.safetensors': x for i, x in enumerate(shards, 1)}
    weight_map = {entry.key: name for name, shard in files.items() for entry in shard}
    total = sum(entry.num_bytes for shard in shards for entry in shard)
    return files, {'metadata': {'total_size': total}, 'weight_map': weight_map}
