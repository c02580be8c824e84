"""What people download, as one stream of files: folders, zip and tar archives, folders of them."""

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_ARCHIVES = ('.zip', '.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError, RuntimeError)


class BrokenMember(Exception):
    """A file of an archive cannot be read."""


@dataclass(frozen=True)
class Item:
    """One file of a source.

    Attributes:
        name: Path inside the source, with forward slashes.
        where: For messages: file, or archive and member.
        read: Its contents; raises :class:`BrokenMember`.
        path: The file itself where it is not in an archive.
    """

    name: str
    where: str
    read: Callable[[], bytes]
    path: Path | None = None


def items(source: Path) -> Iterator[Item]:
    """All files of a source, archives opened, in an order that reads each archive once.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: Not an archive, one that is not whole, or one with a member that would land
            outside the folder it is unpacked to.
    """
    if not source.exists():
        raise FileNotFoundError(f'{source}: no such file or folder.')
    if source.is_dir():
        for path in sorted(p for p in source.rglob('*') if p.is_file()):
            if path.name.endswith(_ARCHIVES):
                yield from _archive(path)
            else:
                name = path.relative_to(source.parent).as_posix()
                yield Item(name, str(path), path.read_bytes, path)
    else:
        yield from _archive(source)


def _archive(path: Path) -> Iterator[Item]:
    try:
        if zipfile.is_zipfile(path):
            yield from _zip(path)
        elif tarfile.is_tarfile(path):
            yield from _tar(path)
        else:
            raise ValueError(
                f'{path} is neither a folder nor a whole zip or tar archive; if its name says so, '
                'it was not downloaded to the end.'
            )
    except _BROKEN as error:
        raise ValueError(f'{path} is not a whole archive ({error}); download it again.') from error


def _zip(path: Path, file: BinaryIO | None = None) -> Iterator[Item]:
    with zipfile.ZipFile(file or path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        for member in members:  # all of them before the first is written
            _refuse_outside(member.filename, path)
        for member in members:
            where = f'{path}:{member.filename}'
            if member.filename.endswith('.zip'):  # COCO's panoptic maps
                # Aside, because going back in a packed stream unpacks it again from its start.
                with tempfile.TemporaryFile() as inner:
                    with archive.open(member) as packed:
                        shutil.copyfileobj(packed, inner)
                    yield from _zip(Path(where), inner)
                continue
            yield Item(member.filename, where, _reader(lambda m=member: archive.read(m), where))


def _tar(path: Path) -> Iterator[Item]:
    with tarfile.open(path) as archive:
        for member in archive:
            _refuse_outside(member.name, path)
            if member.isfile():  # links, devices: nothing that a data set needs
                where = f'{path}:{member.name}'
                read = _reader(lambda m=member: archive.extractfile(m).read(), where)
                yield Item(member.name, where, read)


def _reader(read: Callable[[], bytes], where: str) -> Callable[[], bytes]:
    def checked() -> bytes:
        try:
            return read()
        except _BROKEN as error:
            raise BrokenMember(f'{where}: {error}') from error

    return checked


def _refuse_outside(name: str, archive: Path) -> None:
    plain = name.replace('\\', '/')
    if plain.startswith('/') or '..' in PurePosixPath(plain).parts or plain[1:2] == ':':
        raise ValueError(
            f'{archive} holds {name!r}, which would land outside the folder it is unpacked to; '
            'this is not the published archive, nothing more is taken from it.'
        )
