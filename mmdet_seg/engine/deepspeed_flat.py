"""Parameters in the flat float32 weights of DeepSpeed's ZeRO, cut out when they are asked for.

Source: order and padding as in DeepSpeed 0.19.8 (``deepspeed/utils/zero_to_fp32.py`` and
``runtime/zero/stage_1_and_2.py``).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.safetensors_stream import TensorEntry


def given(tensors: Mapping[str, Tensor]) -> dict[str, TensorEntry]:
    """Tensors that are whole already."""
    return {
        name: TensorEntry(name, tuple(t.shape), t.dtype, lambda t=t: t)
        for name, t in tensors.items()
    }


def stages_1_and_2(
    folder: Path,
    groups: list[Mapping[str, Any]],
    flats: list[list[Tensor]],
    paddings: list[list[int]] | None,
) -> dict[str, TensorEntry]:
    """Each group is one vector, cut into as many parts as there are processes."""
    found = {}
    if any(len(of_process) != len(groups) for of_process in flats):
        raise ValueError(_mixed(folder))
    for i, shapes in enumerate(groups):
        parts, offset = [of_process[i] for of_process in flats], 0
        behind = paddings[i] if paddings else [0] * len(shapes)
        for (name, shape), gap in zip(shapes.items(), behind, strict=True):
            size = math.prod(shape)
            found[name] = _cut_out(name, shape, [(parts, offset)], size)
            offset += size + gap
        # Up to twice the number of processes is added at the end.
        unit = 2 * len(flats)
        if math.ceil(offset / unit) != math.ceil(sum(p.numel() for p in parts) / unit):
            raise ValueError(_mixed(folder))
    return found


def stage_3(
    folder: Path, states: list[dict[str, Any]], flats: list[list[Tensor]]
) -> dict[str, TensorEntry]:
    """Each parameter is cut into as many parts as there are processes."""
    found, num, offset = {}, len(flats), 0
    frozen = states[0].get('frozen_param_shapes') or {}
    for name, shape in frozen.items():
        parts = [([state['frozen_param_fragments'][name].flatten()], 0) for state in states]
        found[name] = _cut_out(name, shape, parts, math.ceil(math.prod(shape) / num))
    for name, shape in ((n, s) for group in states[0]['param_shapes'] for n, s in group.items()):
        part = math.ceil(math.prod(shape) / num)
        found[name] = _cut_out(name, shape, [(flat, offset) for flat in flats], part)
        offset += part
    if any(sum(t.numel() for t in flat) != offset for flat in flats):
        raise ValueError(_mixed(folder))
    return found


def _cut_out(
    name: str, shape: Any, places: list[tuple[list[Tensor], int]], size: int
) -> TensorEntry:
    """A parameter: ``size`` numbers from every place (parts of a vector, offset), joined."""
    dtype = places[0][0][0].dtype

    def read() -> Tensor:
        pieces = [piece for parts, start in places for piece in _slice(parts, start, size)]
        if not pieces:  # a parameter without numbers
            return torch.empty(tuple(shape), dtype=dtype)
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole[: math.prod(shape)].view(tuple(shape))

    return TensorEntry(name, tuple(shape), dtype, read)


def _slice(parts: list[Tensor], start: int, size: int) -> Iterator[Tensor]:
    for part in parts:
        if start < part.numel() and size > 0:
            piece = part.detach()[start : start + size]
            yield piece
            size -= piece.numel()
        start = max(start - part.numel(), 0)


def _mixed(folder: Path) -> str:
    return (
        f'{folder} holds files that do not belong together: the flat weights have another size '
        'than the parameters; copy all files of one checkpoint.'
    )
