"""Files that are whole or not there, room for them, and one line where they cannot be written.

Imports the standard library only: command lines use it before they have parsed their arguments.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdet_seg import command_line

MARGIN = 256 << 20  # bytes that stay free
# What stands in the way of a file that is written, and is not a defect of ours.
_IN_THE_WAY = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, and have the disk keep it."""
    aside = path.with_name(f'{path.name}.part')
    with aside.open('w') as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(aside, path)


def put_in_place(aside: Path, path: Path) -> None:
    """Rename a file that was written and synced, and have the disk keep the name."""
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def only_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to ``folder``; a killed process lets go.

    Args:
        folder: Made where it is not there.
        wait: For whoever is writing to it.

    Raises:
        ValueError: Another process is writing to it, and nobody waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                raise ValueError(
                    f'{folder} is being written by another process: wait for it, or stop it first.'
                ) from None
            command_line.note(f'{folder} is being written by another process; waiting for it.')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_bytes(folder: Path) -> int:
    """Bytes free where ``folder`` is or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def in_one_line(remedy: str = '', folder: Path | None = None) -> Iterator[None]:
    """Turn what stands in the way of a file into a user's message.

    Args:
        remedy: What to do about it, a sentence or more.
        folder: Named where the error names no file.

    Raises:
        ValueError: A full disk, a folder that cannot be written to, a file in a folder's place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        where = error.filename or folder
        text = f'{where}: {error.strerror}.' if where else f'{error.strerror}.'
        raise ValueError(f'{text} {remedy}'.strip()) from error


def gib(num_bytes: float) -> str:
    """Bytes for people."""
    for unit, size in (('GiB', 2**30), ('MiB', 2**20)):
        if num_bytes >= size:
            return f'{num_bytes / size:.1f} {unit}'
    return f'{num_bytes / 2**10:.1f} KiB'
