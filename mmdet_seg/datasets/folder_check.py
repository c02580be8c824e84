"""Look through a user's own folder of images and masks, and write ``dataset.json``."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmdet_seg.datasets.folder_classes import Classes, choose_classes, label
from mmdet_seg.datasets.folder_index import INDEX, FolderIndex
from mmdet_seg.datasets.folder_masks import (
    COLORS,
    VALUES,
    key_to_parts,
    read_mask,
    what_is_wrong,
)
from mmdet_seg.datasets.folder_pairs import Pairs, draw_splits, find_pairs

_SHOWN = 8  # names of files that a line lists
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap the sides
_ORIENTATION = 0x0112
_Given = TypeVar('_Given')
_Found = TypeVar('_Found')


@dataclass
class FolderReport:
    """What :func:`check_folder` found.

    Attributes:
        folder: That was looked through.
        index: As written to ``dataset.json``.
        pairs: Files and what does not pair up.
        broken: One sentence per file or pair that is left out.
        sizes: (width, height) to the number of images.
        pixels: Mask key to the number of pixels.
        masks: Mask key to the number of masks.
        classes: Names and keys.
        replaced: Hash of the ``dataset.json`` that was there before, if it was another.
    """

    folder: Path
    index: FolderIndex
    pairs: Pairs
    broken: list[str]
    sizes: Counter
    pixels: Counter
    masks: Counter
    classes: Classes
    replaced: str | None = None

    def lines(self) -> list[str]:
        """The report as text."""
        splits = {k: len(v) for k, v in self.index.splits.items()}
        drawn = 'as in the folder' if self.index.seed is None else f'seed {self.index.seed}'
        text = [
            f'{self.folder}: {sum(splits.values())} images with masks: train {splits["train"]}, '
            f'val {splits["val"]} ({drawn}).',
            f'Sizes: {list_sizes(self.sizes)}.',
            f'Masks hold {len(self.pixels)} {self.index.coding}:',
            f'  {"label":<12} {"class":<24} {"pixels":>8} {"masks":>6}',
        ]
        total, named = sum(self.pixels.values()), dict(self._named())
        for key in sorted(self.pixels | dict.fromkeys(named, 0)):
            share = f'{100 * self.pixels[key] / total:.2f} %'
            shown = named.get(key, 'ignored')
            text.append(
                f'  {label(key, self.index.coding):<12} {shown:<24} {share:>8} {self.masks[key]:>6}'
            )
        text += self.pairs.notes
        for files, what in (
            (self.pairs.no_mask, 'without a mask'),
            (self.pairs.no_image, 'masks without an image'),
        ):
            if files:
                text.append(f'Left out, {len(files)} {what}: {list_names(files)}')
        text += [f'Broken, left out: {x}' for x in (*self.pairs.clashes, *self.broken)]
        if self.replaced:
            text.append(f'{INDEX} of before (sha256 {self.replaced[:12]}) is replaced.')
        text.append(f'Wrote {self.folder / INDEX}, sha256 {self.index.sha256[:12]}.')
        return text

    def _named(self) -> list[tuple[int, str]]:
        return [
            (k, f'{i} {n}')
            for i, (k, n) in enumerate(zip(self.classes.keys, self.classes.names, strict=True))
        ]


@dataclass
class _Scan:
    size: tuple[int, int]
    coding: str
    counts: dict[int, int]
    sha256: str


def check_folder(folder: str | Path, seed: int = 0, val_share: float = 0.2) -> FolderReport:
    """Find images and masks, read them all, decide on classes and splits, write ``dataset.json``.

    Args:
        folder: The user's folder; nothing in it is changed but ``dataset.json``.
        seed: Draws the splits where the folder has none.
        val_share: Share of the images that then go to validation.

    Raises:
        FileNotFoundError: Images or masks are not there.
        ValueError: They do not make a data set, or ``classes.txt`` does not fit.
    """
    folder = Path(folder)
    if not 0 < val_share < 1:
        raise ValueError(f'--val-share {val_share} is not between 0 and 1, as 0.2.')
    pairs = find_pairs(folder)
    jobs = [pair for split in pairs.splits.values() for pair in split]
    scans, broken = {}, []
    for pair, scan in each(lambda pair: _scan(folder, pair, None), jobs):
        if isinstance(scan, str):
            broken.append(scan)
        else:
            scans[pair] = scan
    if not scans:
        raise ValueError(f'{folder}: no pair of image and mask can be read; first: {broken[0]}')
    coding = COLORS if any(s.coding == COLORS for s in scans.values()) else VALUES
    if coding == COLORS:  # grey and palette masks among them count by their look
        plain = [p for p, s in scans.items() if s.coding != COLORS]
        again = each(lambda pair: _scan(folder, pair, COLORS), plain)
        scans |= {p: s for p, s in again if isinstance(s, _Scan)}
    pixels, masks = Counter(), Counter()
    for scan in scans.values():
        pixels.update(scan.counts)
        masks.update(scan.counts.keys())
    classes = choose_classes(list(pixels), coding, folder)
    splits = {k: [p for p in v if p in scans] for k, v in pairs.splits.items()}
    drawn = 'val' not in splits
    if drawn:
        splits = draw_splits(next(iter(splits.values())), seed, val_share)
    for split in ('train', 'val'):
        if not splits.get(split):
            raise ValueError(f'{folder}: the {split} split has no image with a mask.')
    index = FolderIndex(
        classes=classes.names,
        palette=classes.palette(coding),
        coding=coding,
        labels=[key_to_parts(k, coding) for k in classes.keys],
        splits={k: [list(p) for p in sorted(v)] for k, v in splits.items()},
        seed=seed if drawn else None,
        sha256=_combined(scans),
    )
    before = index.write(folder)
    replaced = before.sha256 if before and before != index else None
    sizes = Counter(scan.size for scan in scans.values())
    return FolderReport(folder, index, pairs, broken, sizes, pixels, masks, classes, replaced)


def each(job: Callable[[_Given], _Found], jobs: Sequence[_Given]) -> list[tuple[_Given, _Found]]:
    """What was given to ``job`` and what came of it, in threads, with a progress bar."""
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(job, jobs)
        shown = track(
            results, 'reading', total=len(jobs), console=console, disable=not console.is_terminal
        )
        return list(zip(jobs, shown, strict=True))


def oriented_size(content: bytes, image: Path) -> tuple[int, int]:
    """(width, height) of an image as it is looked at; all of it is decoded.

    Raises:
        ValueError: It cannot be.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            turned = opened.getexif().get(_ORIENTATION) in _ROTATED
            return opened.size[::-1] if turned else opened.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f'{image}: cannot be read as an image ({what_is_wrong(error)}).'
        ) from error


def _scan(folder: Path, pair: tuple[str, str], coding: str | None) -> _Scan | str:
    image, mask = (folder / name for name in pair)
    try:
        content = image.read_bytes()
        size = oriented_size(content, image)
        keys, found = read_mask(mask, coding)
    except OSError as error:
        return f'{image}: cannot be read as an image ({what_is_wrong(error)}).'
    except ValueError as error:
        return str(error)
    if keys.shape[::-1] != size:
        return (
            f'{mask} is {keys.shape[1]} x {keys.shape[0]} pixels, its image {size[0]} x {size[1]}.'
        )
    digest = hashlib.sha256(content + mask.read_bytes()).hexdigest()
    values, counts = np.unique(keys, return_counts=True)
    return _Scan(size, found, dict(zip(values.tolist(), counts.tolist(), strict=True)), digest)


def _combined(scans: dict[tuple[str, str], _Scan]) -> str:
    lines = (f'{scan.sha256}  {image}  {mask}\n' for (image, mask), scan in sorted(scans.items()))
    return hashlib.sha256(''.join(lines).encode()).hexdigest()


def list_sizes(sizes: Counter) -> str:
    """The commonest (width, height) and the range of the others."""
    shown = ', '.join(f'{w} x {h} ({n})' for (w, h), n in sizes.most_common(4))
    if len(sizes) <= 4:
        return shown
    sides = [s for size in sizes for s in size]
    return f'{shown}, and {len(sizes) - 4} more; sides from {min(sides)} to {max(sides)}'


def list_names(files: list[str]) -> str:
    """The first few names."""
    return ', '.join(files[:_SHOWN]) + (', ...' if len(files) > _SHOWN else '')
