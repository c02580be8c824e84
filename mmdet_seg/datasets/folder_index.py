"""``dataset.json``: what ``tools/prepare.py check`` found in a folder of images and masks."""

import json
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

INDEX = 'dataset.json'
FORMAT = 'mmdet_seg folder 1'


@dataclass
class FolderIndex:
    """Contents of ``dataset.json``.

    Attributes:
        classes: Names; a class's number is its position.
        palette: ``[red, green, blue]`` per class.
        coding: What masks hold: ``values`` (grey or palette numbers) or ``colors``.
        labels: Per class ``[value]`` or ``[red, green, blue]`` in the masks.
        splits: ``train`` and ``val``, each a list of (image, mask), relative to the folder.
        seed: The splits were drawn by it; None where the folder has its own.
        sha256: Over names and contents of all files that are used.
        ignore_index: What pixels with any other label become.
        format: Of this file.
    """

    classes: list[str]
    palette: list[list[int]]
    coding: str
    labels: list[list[int]]
    splits: dict[str, list[list[str]]]
    seed: int | None
    sha256: str
    ignore_index: int = 255
    format: str = field(default=FORMAT)

    def write(self, folder: Path) -> 'FolderIndex | None':
        """Write aside, then rename.

        Returns:
            What was there before; None where nothing was, or nothing that can be read.

        Raises:
            ValueError: The folder cannot be written to, or holds another's ``dataset.json``.
        """
        target = folder / INDEX
        if target.exists() and not _is_ours(target):
            raise ValueError(
                f"{target} was not written by 'prepare.py check'; move it away, it is not replaced."
            )
        try:
            before = read_index(folder)
        except (FileNotFoundError, ValueError):
            before = None
        aside = folder / f'.{INDEX}.part-{os.getpid()}'
        try:
            aside.write_text(json.dumps(asdict(self), indent=1) + '\n')
            os.replace(aside, target)
        except OSError as error:
            raise ValueError(f'Cannot write {target}: {error.strerror}.') from error
        return before


def read_index(folder: str | Path) -> FolderIndex:
    """Read a folder's ``dataset.json``.

    Raises:
        FileNotFoundError: The folder has none: names the command that writes it.
        ValueError: It is broken or another program's.
    """
    path = Path(folder) / INDEX
    remedy = f"run 'python tools/prepare.py check {shlex.quote(str(folder))}' first"
    if not path.is_file():
        raise FileNotFoundError(
            f'{folder} has no {INDEX}: {remedy}, it finds images and masks and writes it.'
        )
    if not _is_ours(path):
        raise ValueError(f"{path} is not one that 'prepare.py check' wrote; {remedy}.")
    try:
        index = FolderIndex(**json.loads(path.read_text()))
    except TypeError as error:
        raise ValueError(f'{path} is not complete ({error}); {remedy}.') from error
    if not len(index.classes) == len(index.labels) == len(index.palette) > 0:
        raise ValueError(
            f'{path}: {len(index.classes)} classes, {len(index.labels)} labels and '
            f'{len(index.palette)} colours have to be as many; {remedy}.'
        )
    return index


def _is_ours(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get('format') == FORMAT
