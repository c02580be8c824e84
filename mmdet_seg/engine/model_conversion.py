"""A whole model from one kind of checkpoint to another."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.checkpoint_writer import Progress
from mmdet_seg.backbones.run_folder import BACKBONE, is_run_folder
from mmdet_seg.backbones.safetensors_stream import TensorEntry, write_safetensors
from mmdet_seg.compat.safetensors_load import DATASET_META
from mmdet_seg.engine import checkpoint_folder
from mmdet_seg.engine.checkpoint_folder import NotSaved, write_folder
from mmdet_seg.engine.model_source import ModelWeights, merge_adapters, open_model
from mmdet_seg.version import __version__

KINDS = ('model', 'folder')
_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
_FILES = ('.safetensors', '.pth')
_OTHER_FILES = ('.pt', '.bin', '.onnx', '.pt2')


@dataclass(frozen=True)
class ModelReport:
    """What :func:`convert_model` did.

    Attributes:
        source: What was read.
        kind: What that is, in words.
        out: What was written.
        num_tensors: Tensors written.
        num_bytes: Their bytes.
        added: Tensors of the frozen encoder that the source left out, and where they came from.
        seconds: Wall time.
    """

    source: str
    kind: str
    out: str
    num_tensors: int
    num_bytes: int
    added: tuple[int, str]
    seconds: float

    def summary(self) -> str:
        """The report in one line."""
        num, where = self.added
        return (
            f'{self.source} ({self.kind}) -> {self.out}: {self.num_tensors} tensors, '
            f'{self.num_bytes / 1e9:.2f} GB in {self.seconds:.1f} s'
            + (f'; {num} of them, frozen, from {where}.' if num else '.')
        )


def convert_model(
    source: str | os.PathLike,
    out: str | os.PathLike,
    kind: str = 'model',
    *,
    dtype: str = 'keep',
    heads_only: bool = False,
    merge_lora: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ModelReport:
    """Write a whole model's weights anew, bit for bit unless ``dtype`` says otherwise.

    Args:
        source: As for :func:`mmdet_seg.engine.model_source.open_model`.
        out: For ``model`` a ``.safetensors`` or ``.pth`` file, or a name without such an ending:
            a ``.safetensors`` file, or a folder where there is more than 5 GB. For ``folder`` a
            folder.
        kind: ``model``, or ``folder`` for a checkpoint folder as training writes them.
        dtype: Of floating-point tensors: ``keep``, ``fp32``, ``bf16`` or ``fp16``.
        heads_only: Without ``backbone.*``.
        merge_lora: With adapters summed into the weights.
        force: Replace what a previous call wrote to ``out``.
        progress: Called with bytes written and bytes in all.

    Raises:
        FileNotFoundError: Nothing at ``source``, or a frozen encoder's source is gone.
        ValueError: ``source`` is broken or no whole model, or ``out`` cannot be written.
    """
    start, out = time.perf_counter(), Path(out)
    _check_arguments(out, kind, dtype, heads_only, merge_lora)
    if kind == 'folder' or out.suffix in _FILES:  # before anything is read
        _check_free(out, kind, force)
    found = open_model(source, complete=not heads_only)
    if merge_lora:
        found = merge_adapters(found, source)
    entries = [
        _cast(entry, _DTYPES.get(dtype))
        for name, entry in found.tensors.items()
        if not (heads_only and name.startswith(BACKBONE))
    ]
    if not entries:
        raise ValueError(f'{source} has nothing but {BACKBONE}...; leave --heads-only out.')
    total = sum(entry.num_bytes for entry in entries)
    if kind == 'model' and out.suffix not in _FILES:
        if total > checkpoint_folder.MAX_SHARD_BYTES:
            kind = 'folder'
        else:
            out = out.with_name(f'{out.name}.safetensors')
        _check_free(out, kind, force)
    free = shutil.disk_usage(out.absolute().parent).free
    if free < 1.02 * total:
        raise ValueError(
            f'{out} needs {total / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free; make room.'
        )
    _write(out, kind, _counted(entries, total, found, progress), found, str(source))
    return ModelReport(
        source=str(source),
        kind=found.kind,
        out=str(out),
        num_tensors=len(entries),
        num_bytes=total,
        added=found.added,
        seconds=time.perf_counter() - start,
    )


def _check_arguments(out: Path, kind: str, dtype: str, heads_only: bool, merge_lora: bool) -> None:
    if dtype != 'keep' and dtype not in _DTYPES:
        raise ValueError(f'dtype={dtype!r} is not one of keep, {", ".join(_DTYPES)}.')
    if heads_only and kind == 'folder':
        raise ValueError('--heads-only goes with --to model: a folder holds what a run continues.')
    if heads_only and merge_lora:
        raise ValueError('--heads-only leaves the encoder out that --merge-lora changes; give one.')
    if kind == 'folder' and out.suffix in _FILES + _OTHER_FILES:
        raise ValueError(f'{out} looks like a file: --to folder writes a folder.')
    if out.suffix in _OTHER_FILES:
        raise ValueError(f'{out}: --to model writes .safetensors or .pth; end it with one of them.')
    if not out.absolute().parent.is_dir():
        raise ValueError(f'{out.parent} is not a directory; make it first.')


def _check_free(out: Path, kind: str, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ValueError(f'{out} is there already; choose another place or add --force.')
    if kind == 'folder' and not (is_run_folder(out) and not _foreign(out)):
        raise ValueError(
            f'{out} cannot be replaced: it is not a checkpoint alone; remove it first.'
        )
    if kind == 'model' and out.is_dir():
        raise ValueError(f'{out} cannot be replaced: it is a folder; remove it first.')


def _foreign(folder: Path) -> bool:
    listed = json.loads((folder / checkpoint_folder.MANIFEST).read_text()).get('files', {})
    return any(p.name not in {*listed, checkpoint_folder.MANIFEST} for p in folder.iterdir())


def _cast(entry: TensorEntry, dtype: torch.dtype | None) -> TensorEntry:
    if dtype is None or dtype == entry.dtype or not entry.dtype.is_floating_point:
        return entry
    return replace(entry, dtype=dtype, read=lambda: entry.read().to(dtype))


def _counted(
    entries: list[TensorEntry], total: int, found: ModelWeights, progress: Progress | None
) -> list[TensorEntry]:
    """The same entries, which say how far the writing has come and give memory back."""
    done = 0

    def read(entry: TensorEntry) -> Tensor:
        nonlocal done
        if done // 2**30 != (done + entry.num_bytes) // 2**30:
            found.release()
        done += entry.num_bytes
        if progress is not None:
            progress(done, total)
        return entry.read()

    return [replace(e, read=lambda e=e: read(e)) for e in entries]


def _write(
    out: Path, kind: str, entries: list[TensorEntry], found: ModelWeights, source: str
) -> None:
    meta: dict[str, Any] = {'dataset_meta': found.dataset_meta} if found.dataset_meta else {}
    if kind == 'folder':
        facts = {'mmdet_seg': __version__, 'iteration': 0, 'encoder': None, 'source': source}
        try:
            write_folder(out, {'model': entries}, None, {**facts, **meta})
        except NotSaved as error:
            raise ValueError(str(error)) from error
    elif out.suffix == '.pth':
        state = {entry.key: _alone(entry.read()) for entry in entries}
        with _aside(out) as part:
            torch.save({'meta': {**meta, 'mmdet_seg': __version__}, 'state_dict': state}, part)
    else:
        metadata = {'format': 'pt'}
        if meta:
            metadata[DATASET_META] = json.dumps(found.dataset_meta)
        with _aside(out) as part:
            write_safetensors(part, entries, metadata)


def _alone(tensor: Tensor) -> Tensor:
    """torch.save writes whole storages; a view would drag the rest of its storage along."""
    tensor = tensor.detach()
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole and tensor.is_contiguous() else tensor.clone()


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A file beside ``out`` that takes its place when all went well."""
    part = out.with_name(f'.{out.name}.partial-{os.getpid()}')
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
