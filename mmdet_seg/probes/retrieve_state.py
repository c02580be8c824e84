"""What an interrupted retrieval goes on from: its memory, and the images that are scored."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmdet_seg.command_line import Failure
from mmdet_seg.probes.disk import MARGIN, free_bytes, gib, put_in_place
from mmdet_seg.probes.patch_memory import PatchMemory

MEMORY, AREAS = 'memory.safetensors', 'areas.safetensors'


def save_tensors(path: Path, tensors: Mapping[str, Tensor], run: Mapping[str, Any]) -> None:
    """Write a file whole or not at all.

    Args:
        path: Of the file.
        tensors: By name.
        run: What has to be the same in the run that goes on; JSON.

    Raises:
        mmdet_seg.command_line.Failure: It could not be written; the one of before is as it was.
    """
    aside = path.with_name(f'.{path.name}.part')
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(content, aside, {'run': json.dumps(run, sort_keys=True)})
        with aside.open('rb') as file:
            os.fsync(file.fileno())
        put_in_place(aside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise Failure(
            f'{path} could not be written ({error}); make room, then go on with '
            f'--resume {path.parent}.'
        ) from error


def check_room(folder: Path, memory: PatchMemory) -> None:
    """Refuse a memory that the disk cannot keep for going on after a kill.

    Raises:
        ValueError: It does not fit.
    """
    if memory.bytes_needed + MARGIN > (free := free_bytes(folder)):
        raise ValueError(
            f'The memory of {memory.size:,} patches takes {gib(memory.bytes_needed)} in {folder}, '
            f'which has {gib(free)} free: take a smaller --memory-size, fewer --layers or '
            'another --out.'
        )


def has_state(folder: Path) -> bool:
    """Whether a run can be gone on with."""
    return (folder / MEMORY).is_file()


def load_tensors(path: Path, run: Mapping[str, Any]) -> dict[str, Tensor]:
    """What :func:`save_tensors` wrote.

    Raises:
        ValueError: Broken, or of a run with other options, data or encoder.
    """
    try:
        with safe_open(path, 'pt') as file:
            before = json.loads((file.metadata() or {}).get('run', '{}'))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); remove it to begin this part again.'
        ) from error
    for key, value in run.items():
        if before.get(key) != value:
            raise ValueError(
                f'{path} was made with {key} {before.get(key)}, and now it is {value}: give the '
                'same options as then, or leave --resume out.'
            )
    return tensors


def find_state(resume: str, root: Path) -> Path:
    """The folder that ``--resume`` means: as given, or the newest under ``root`` with a state.

    Raises:
        FileNotFoundError: There is none.
    """
    folders = [Path(resume)] if resume else sorted(root.glob('*'), reverse=True)
    for folder in folders:
        if has_state(folder):
            return folder
    raise FileNotFoundError(
        f'--resume: no {MEMORY} in {resume or root}; a run that was not interrupted leaves none. '
        'Leave --resume out to start anew.'
    )


def clear(folder: Path) -> None:
    """Remove the state of a run that is complete."""
    for name in (MEMORY, AREAS):
        (folder / name).unlink(missing_ok=True)
