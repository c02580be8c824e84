"""Whether a data set that was laid out is whole: counts, partners, sizes, label values."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdet_seg.datasets.prepare_layouts import Layout, Split

_SHOWN = 5
# The last bytes of a whole file.
_ENDS = {'.jpg': b'\xff\xd9', '.png': b'IEND\xaeB`\x82'}


def verify(layout: Layout, root: Path, done: Any, advance: Callable[..., None]) -> None:
    """Add what is missing or broken to ``done.problems``, and the counts to ``done.counts``.

    Args:
        layout: What should be there.
        root: Where it lies.
        done: A :class:`mmdet_seg.datasets.prepare.Prepared`.
        advance: Called once per pair, and before with the total.
    """
    jobs = []
    for name, split in layout.splits.items():
        names = _names(root, split, done.problems)
        if names is None:
            done.counts[name] = 0
            continue
        images = [x for x in names if _path(root, split.images, x).is_file()]
        masks = [x for x in names if _path(root, split.masks, x).is_file()]
        done.counts[name] = len(images)
        _count(root, name, split, names, images, done.problems)
        missing = sorted(set(images) - set(masks))
        if missing:
            done.problems.append(
                f'{root / split.masks[0]}: {some_of(missing, split.masks[1])} missing, '
                f'{len(missing)} of {len(images)} images are without labels.'
            )
        if split.listed is None:
            extra = sorted(set(_stems(root, split.masks)) - set(names))
            if extra:
                done.problems.append(
                    f'{root / split.images[0]}: {some_of(extra, split.images[1])} missing, '
                    f'{len(extra)} label maps are without images.'
                )
        have = set(masks)
        jobs += [(_path(root, split.images, x), _path(root, split.masks, x))
                 for x in images if x in have]  # fmt: skip
    if jobs:
        advance(len(jobs))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(lambda job: _pair(*job, layout.labels), jobs):
            if problem:
                done.problems.append(problem)
            advance()


def _names(root: Path, split: Split, problems: list[str]) -> list[str] | None:
    if split.listed is None:
        return _stems(root, split.images)
    listed = root / split.listed
    if not listed.is_file():
        problems.append(f'{listed} is missing; it lists the {split.count} names of the split.')
        return None
    return listed.read_text().split()


def _count(
    root: Path, name: str, split: Split, names: list[str], images: list[str], problems: list[str]
) -> None:
    expected = names
    if split.numbered:
        expected = [split.numbered.format(i) for i in range(1, split.count + 1)]
    missing = sorted(set(expected) - set(images))
    if len(names) != split.count or missing:
        text = f'{name}: {len(images)} images in {root / split.images[0]}, {split.count} published'
        if split.listed and len(names) != split.count:
            text += f'; {split.listed} lists {len(names)}'
        if missing:
            text += f'; missing: {some_of(missing, split.images[1])}'
        problems.append(f'{text}.')


def _stems(root: Path, place: tuple[str, str]) -> list[str]:
    folder, suffix = root / place[0], place[1]
    found = (p for p in folder.rglob(f'*{suffix}') if not p.name.startswith('.'))
    return sorted(p.relative_to(folder).as_posix().removesuffix(suffix) for p in found)


def _path(root: Path, place: tuple[str, str], name: str) -> Path:
    return root / place[0] / f'{name}{place[1]}'


def some_of(names: list[str], suffix: str = '') -> str:
    """The first few names, for a message."""
    return ', '.join(f'{n}{suffix}' for n in names[:_SHOWN]) + (
        ', ...' if len(names) > _SHOWN else ''
    )


def _pair(image: Path, mask: Path, labels: frozenset[int]) -> str | None:
    """What is wrong with an image and its labels; None when nothing is."""
    for path in (image, mask):
        if not is_whole(path):
            return f'{path} ends too early; get it again.'
    try:
        with Image.open(image) as opened:
            size = opened.size
        with Image.open(mask) as opened:
            values = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        return f'{mask if mask.name in str(error) else image}: cannot be read ({error}).'
    if values.ndim != 2:
        return f'{mask} is a colour image; label maps have one value per pixel.'
    if values.shape[::-1] != size:
        return (
            f'{mask} is {values.shape[1]} x {values.shape[0]} pixels, its image '
            f'{size[0]} x {size[1]}.'
        )
    if wrong := sorted(set(np.unique(values).tolist()) - labels):
        high = max(labels - {255})
        allowed = f'0 to {high}' + (' and 255' if 255 in labels else '')
        return f'{mask}: value {wrong[0]}; labels are {allowed}.'
    return None


def is_whole(path: Path) -> bool:
    """Whether a file ends as its kind ends, or, with something after that, decodes."""
    with path.open('rb') as stream:
        stream.seek(-min(64, path.stat().st_size), os.SEEK_END)
        if _ENDS[path.suffix] in stream.read():
            return True
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True
