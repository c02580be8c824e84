"""Labels of a feature store: as small as their values allow, compressed where it pays."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_PAYS = 0.9  # of the plain size


def pack_labels(labels: Sequence[Tensor]) -> tuple[list[bytes], dict[str, Any]]:
    """Integers of one shape, 0 .. 65535, to bytes one after the other and what reads them.

    Raises:
        ValueError: A value that does not fit, or shapes that differ.
    """
    if len({tuple(x.shape) for x in labels}) > 1:
        shapes = sorted({'x'.join(map(str, x.shape)) for x in labels})
        raise ValueError(f'Views have labels of several sizes ({", ".join(shapes)}); make one.')
    low = min(int(x.min()) for x in labels)
    high = max(int(x.max()) for x in labels)
    if low < 0 or high > 65535:
        raise ValueError(f'A label is {low if low < 0 else high}; labels are 0 .. 65535.')
    dtype = torch.uint8 if high < 256 else torch.uint16
    plain = [x.to(dtype).contiguous().numpy().tobytes() for x in labels]
    small = [zlib.compress(x, 1) for x in plain]
    packed = sum(map(len, small)) < _PAYS * sum(map(len, plain))
    parts = small if packed else plain
    return parts, {
        'lengths': [len(x) for x in parts],
        'packed': packed,
        'dtype': str(dtype).removeprefix('torch.'),
        'shape': list(labels[0].shape),
    }


class PackedLabels:
    """Labels of a shard; each is unpacked when it is asked for."""

    def __init__(self, content: Tensor, facts: dict[str, Any]) -> None:
        self.content, self.facts = content, facts
        self.ends = torch.tensor([0, *facts['lengths']]).cumsum(0).tolist()

    def __getitem__(self, row: int) -> Tensor:
        part = self.content[self.ends[row] : self.ends[row + 1]]
        if self.facts['packed']:
            data = bytearray(zlib.decompress(part.numpy()))
            part = torch.frombuffer(data, dtype=torch.uint8)
        values = part.clone().view(getattr(torch, self.facts['dtype']))
        return values.to(torch.int64).reshape(self.facts['shape'])


def read_labels(content: Tensor, facts: dict[str, Any]) -> PackedLabels:
    """Labels from the bytes and facts of :func:`pack_labels`."""
    return PackedLabels(content, facts)
