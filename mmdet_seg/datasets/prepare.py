"""Lay out a downloaded data set as its config expects it."""

import errno
import io
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmdet_seg.datasets.pascal_context_labels import ContextLabels
from mmdet_seg.datasets.prepare_coco import verify_coco
from mmdet_seg.datasets.prepare_layouts import LAYOUTS, CocoSplit, Layout, Rule
from mmdet_seg.datasets.prepare_source import BrokenMember, Item, items
from mmdet_seg.datasets.prepare_verify import verify

CONTEXT_LABELS = 'trainval_merged.json'


@dataclass
class Prepared:
    """What was done.

    Attributes:
        root: Where the data set lies now.
        new: Files that were written or linked.
        kept: Files that were there already.
        counts: Images per split.
        problems: One sentence per thing that is missing or broken; empty when all is well.
    """

    root: Path
    new: int = 0
    kept: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def prepare(
    name: str, source: str | Path, out: str | Path | None = None, layout: Layout | None = None
) -> Prepared:
    """Lay out a data set and verify it.

    Every file is written aside and renamed, so an interrupted run is continued by the next one.

    Args:
        name: Key of :data:`mmdet_seg.datasets.prepare_layouts.LAYOUTS`.
        source: Zip, tar, folder, or a folder that holds archives.
        out: Where to; None: where the config expects it.
        layout: Instead of the one of that name.

    Raises:
        FileNotFoundError: There is no source.
        ValueError: The source cannot be used: no archive, unsafe, or without any file of the set.
    """
    layout = layout or LAYOUTS[name]
    root = Path(out or layout.root)
    done = Prepared(root)
    placed: set[str] = set()
    with _progress(f'{name}: files') as advance, _disk(root):
        for item in items(Path(source)):
            if item.name.rsplit('/', 1)[-1] == CONTEXT_LABELS and layout.data == 'pascal_context':
                placed.add(CONTEXT_LABELS)
                _place_context(item, layout, done, advance)
            elif (found := _target(item.name, layout.rules)) and found[0] not in placed:
                placed.add(found[0])
                _place(item, *found, done)
                advance()
    if not placed:
        raise ValueError(f'{source} holds no file of {name}; what has to be there: {layout.files}.')
    with _progress(f'{name}: checking') as advance:
        annotated = any(isinstance(split, CocoSplit) for split in layout.splits.values())
        (verify_coco if annotated else verify)(layout, root, done, advance)
    return done


def _target(name: str, rules: Iterable[Rule]) -> tuple[str, Rule] | None:
    for rule in rules:
        if match := re.search(rf'(?:^|/){rule.pattern}$', name):
            return rule.target.format(**match.groupdict()), rule
    return None


def _place(item: Item, name: str, rule: Rule, done: Prepared) -> None:
    target = done.root / name
    if target.exists():
        done.kept += 1
        return
    try:
        if rule.table is not None:
            _write(target, _rewritten(item, rule.table))
        elif item.path is not None:
            _link(item.path, target)
        else:
            _write(target, item.read())
        done.new += 1
    except (BrokenMember, _Unfit) as error:
        done.problems.append(str(error))


class _Unfit(Exception):
    """A label map that cannot be rewritten."""


def _rewritten(item: Item, table: dict[int, int]) -> bytes:
    try:
        with Image.open(io.BytesIO(item.read())) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise _Unfit(f'{item.where}: cannot be read as an image ({error}).') from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise _Unfit(f'{item.where}: {labels.dtype} of shape {labels.shape}, not an 8-bit map.')
    if unknown := sorted(set(np.unique(labels).tolist()) - table.keys()):
        raise _Unfit(
            f'{item.where}: value {unknown[0]}; labels are 0 to {max(set(table) - {255})} and 255.'
        )
    lut = np.zeros(256, np.uint8)
    lut[list(table)] = list(table.values())
    return _png(lut[labels])


def _place_context(item: Item, layout: Layout, done: Prepared, advance: callable) -> None:
    try:
        labels = ContextLabels(item.read())
    except BrokenMember as error:
        raise ValueError(str(error)) from error
    for name, label_map in labels.maps():
        folder, suffix = layout.splits['train'].masks
        target = done.root / folder / f'{name}{suffix}'
        if target.exists():
            done.kept += 1
        else:
            try:
                _write(target, _png(label_map.draw()))
                done.new += 1
            except ValueError as error:
                done.problems.append(f'{item.where}: {name}: {error}.')
        advance()
    for split, names in labels.lists().items():
        target = done.root / layout.splits[split].listed
        if not target.exists():
            _write(target, ''.join(f'{n}\n' for n in names).encode())


def _png(label: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(label).save(stream, format='PNG')
    return stream.getvalue()


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f'.{target.name}.part')
    aside.write_bytes(content)
    os.replace(aside, target)


def _link(path: Path, target: Path) -> None:
    """One file under two names where the file system can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f'.{target.name}.part')
    aside.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), aside)
    except OSError:
        shutil.copyfile(path, aside)
    os.replace(aside, target)


@contextmanager
def _disk(root: Path) -> Iterable[None]:
    """A disk that is full or not ours becomes one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.errno:
            raise  # our own: no such source
        full = error.errno == errno.ENOSPC
        remedy = 'free some space and run it again, it goes on' if full else 'choose another --out'
        raise ValueError(f'{error.filename or root}: {error.strerror}; {remedy}.') from error


@contextmanager
def _progress(text: str) -> Iterable[callable]:
    """A progress bar; the total is known or not. Yields ``advance(total=None)``."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task('', total=None)

        def advance(total: int | None = None) -> None:
            bar.update(task, advance=0 if total else 1, **({'total': total} if total else {}))

        yield advance
