"""A checkpoint on disk: a folder that is complete or absent.

::

    iter_540/
      manifest.json          format, iteration, what the rest is; bytes and SHA-256 of every file
      model.safetensors      what trained, and buffers (in files of 5 GB where it is more)
      ema.safetensors        moving average of what trained, where one is kept
      optimizer.safetensors  states as '<parameter>|<key>'
      training.pth           schedulers, groups, history, numbers of the optimizer

It is written to ``.iter_540.part``, synced, and renamed. Tensors are whole and by name, so any
strategy and any number of processes can read them.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_rank
from safetensors import safe_open
from torch import Tensor

from mmdet_seg.backbones.run_folder import FORMAT, MANIFEST
from mmdet_seg.backbones.safetensors_stream import TensorEntry, split_shards, write_tensors
from mmdet_seg.compat.torch_load import load_file

TRAINING = 'training.pth'
MAX_SHARD_BYTES = 5 * 10**9
_CHUNK = 1 << 24
_PART, _OLD = '.part', '.old'  # behind the hidden names of what is written and replaced


class NotSaved(OSError):
    """A checkpoint could not be written; those of before are as they were."""


def write_folder(
    target: Path,
    tensors: dict[str, Iterable[TensorEntry]],
    training: dict[str, Any] | None,
    facts: dict[str, Any],
) -> None:
    """Write a checkpoint. All processes call this together: tensors are gathered as they come.

    Args:
        target: The folder; replaced where there is one.
        tensors: Stem of a file -> its tensors.
        training: What is saved beside tensors, None in a checkpoint of weights alone.
        facts: More for the manifest.

    Raises:
        NotSaved: In all processes, where the first one could not write.
    """
    writer = _Writer(target) if get_rank() == 0 else None
    for stem, entries in tensors.items():
        files, index = split_shards(entries, MAX_SHARD_BYTES, stem)
        if index is not None and writer:
            writer.put(f'{stem}.safetensors.index.json', json.dumps(index).encode())
        for name, shard in files.items():
            with _open(writer, name) as file:
                write_tensors(file.write, shard, {'format': 'pt'})
    if writer:
        if training is not None:
            content = io.BytesIO()
            torch.save(training, content)
            writer.put(TRAINING, content.getbuffer())
        writer.finish(facts)
    outcome = [writer.problem if writer else None]
    broadcast_object_list(outcome)
    if outcome[0]:
        raise NotSaved(outcome[0])


class _Writer:
    """Of the first process. A problem is kept until the end: the others are still sending."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f'.{target.name}{_PART}')
        self.files: dict[str, dict[str, Any]] = {}
        self.problem: str | None = None
        with self.trying():
            if self.part.exists():  # of a run that was killed
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)

    def trying(self) -> '_Trying':
        return _Trying(self)

    def put(self, name: str, content: Any) -> None:
        with _open(self, name) as file:
            file.write(content)

    def finish(self, facts: dict[str, Any]) -> None:
        files = dict(self.files)
        manifest = {'format': FORMAT, 'version': 1, **facts, 'files': files}
        self.put(MANIFEST, json.dumps(manifest, indent=1).encode() + b'\n')
        old = self.target.with_name(f'.{self.target.name}{_OLD}')
        with self.trying():
            if self.problem:
                raise OSError  # it stays the first one
            _sync(self.part)
            if self.target.exists():
                shutil.rmtree(old, ignore_errors=True)
                self.target.rename(old)
            self.part.rename(self.target)
            _sync(self.target.parent)
            shutil.rmtree(old, ignore_errors=True)
        if self.problem:
            shutil.rmtree(self.part, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what runs that were killed while they wrote left in a run's folder.

    A checkpoint that was to be replaced and is not there any more comes back.
    """
    for part in folder.glob(f'.*{_PART}'):
        shutil.rmtree(part, ignore_errors=True)
    for old in folder.glob(f'.*{_OLD}'):
        target = old.with_name(old.name[1 : -len(_OLD)])
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


class _Trying:
    """Keeps the first OSError and swallows all."""

    def __init__(self, writer: _Writer) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            self.writer.problem = self.writer.problem or (
                f'{self.writer.target} could not be saved: {reason}. Earlier ones are intact.'
            )
            return True
        return False


class _open:
    """A file of the folder that counts, hashes and syncs; nothing in the other processes."""

    def __init__(self, writer: _Writer | None, name: str) -> None:
        self.writer, self.name = writer, name
        self.file: Any = None
        self.bytes, self.digest = 0, hashlib.sha256()

    def __enter__(self) -> '_open':
        if self.writer and not self.writer.problem:
            with self.writer.trying():
                self.file = (self.writer.part / self.name).open('wb')
        return self

    def write(self, data: Any) -> None:
        if self.file is None or self.writer.problem:
            return
        with self.writer.trying():
            self.file.write(data)
            self.bytes += memoryview(data).nbytes
            self.digest.update(data)

    def __exit__(self, *exc: Any) -> None:
        if self.file is None:
            return
        with self.writer.trying():
            self.file.flush()
            os.fsync(self.file.fileno())
        with self.writer.trying():
            self.file.close()
        self.writer.files[self.name] = {'bytes': self.bytes, 'sha256': self.digest.hexdigest()}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class CheckpointFolder:
    """A complete checkpoint.

    Attributes:
        path: The folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def iteration(self) -> int:
        """Iterations that were done."""
        return self.manifest['iteration']

    def has(self, stem: str) -> bool:
        """Whether there are tensors of this kind."""
        return any(name.startswith(f'{stem}.') for name in self.manifest['files'])

    def tensors(self, stem: str) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, read one by one."""
        for name in self.manifest['files']:
            if name.startswith((f'{stem}.', f'{stem}-')) and name.endswith('.safetensors'):
                with safe_open(self.path / name, framework='pt') as file:
                    for key in file.keys():  # noqa: SIM118  (not a dictionary)
                        yield key, file.get_tensor(key)

    def training(self) -> dict[str, Any]:
        """What was saved beside tensors; loading it runs no code."""
        return load_file(self.path / TRAINING)


def is_folder(path: str | Path) -> bool:
    """Whether this is a checkpoint of ours, complete or not."""
    return (Path(path) / MANIFEST).is_file()


def open_folder(path: str | Path) -> CheckpointFolder:
    """Open a checkpoint after comparing every file with the manifest.

    Raises:
        ValueError: Not a checkpoint, of a later version, or a file is missing or has changed.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest['format'] != FORMAT:
            raise ValueError('another format')
        files, version = manifest['files'], manifest['version']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is not a complete checkpoint: {MANIFEST} cannot be read.'
        ) from error
    if version != 1:
        raise ValueError(f'{path} was written by a later version of mmdet_seg; update it.')
    with ThreadPoolExecutor() as pool:  # reading and hashing leave Python's lock
        wrong = pool.map(lambda name: _compare(path / name, files[name]), files)
        for problem in wrong:
            if problem:
                raise ValueError(f'{path} is not a complete checkpoint: {problem}.')
    return CheckpointFolder(path, manifest)


def _compare(file: Path, expected: dict[str, Any]) -> str | None:
    try:
        size = file.stat().st_size
        if size != expected['bytes']:
            return f'{file.name} has {size} bytes instead of {expected["bytes"]}'
        digest = hashlib.sha256()
        with file.open('rb') as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f'{file.name}: {error.strerror}'
    return None if digest.hexdigest() == expected['sha256'] else f'{file.name} has changed'
