"""Names, labels and colours of the classes of a user's own folder."""

import colorsys
import re
from dataclasses import dataclass
from pathlib import Path

from mmdet_seg.datasets.folder_masks import COLORS, IGNORE, VALUES, parts_to_key

CLASSES = 'classes.txt'
MOST_CLASSES = 255  # 255 itself is what is ignored
_NUMBERED = {
    VALUES: re.compile(r'(\d+)[\s,:;]+(.+)'),
    COLORS: re.compile(r'(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,:;]+(.+)'),
}
_IGNORED = {'ignore', 'ignored'}


@dataclass
class Classes:
    """Attributes: ``names`` and mask ``keys``, one per class, in the order of class numbers."""

    names: list[str]
    keys: list[int]

    def palette(self, coding: str) -> list[list[int]]:
        """Colours to draw with: the masks' own, or well separated ones."""
        if coding == COLORS:
            return [[k >> 16, k >> 8 & 255, k & 255] for k in self.keys]
        return [_color(i) for i in range(len(self.keys))]


def choose_classes(found: list[int], coding: str, folder: Path) -> Classes:
    """Decide which labels are classes.

    ``classes.txt`` decides where there is one: a name per line in the order of the sorted labels,
    or ``value name`` (``red green blue name``) lines in any order. What is not
    named, or named ``ignore``, is ignored. Without the file every label is a class, except 255
    beside two or more others.

    Args:
        found: Every key (see :func:`mmdet_seg.datasets.folder_masks.read_mask`) in the masks.
        coding: ``values`` or ``colors``.
        folder: Where ``classes.txt`` may lie.

    Raises:
        ValueError: ``classes.txt`` does not fit the masks, or there are too many labels.
    """
    found = sorted(found)
    listed = folder / CLASSES
    if listed.is_file():
        named = _named(listed, found, coding)
    elif len(found) - (IGNORE in found) > MOST_CLASSES:
        raise ValueError(
            f'{folder}: the masks hold {len(found)} different {coding}, more than {MOST_CLASSES} '
            'classes: JPEG or smoothed edges blur labels. Save masks as PNG without smoothing, or '
            f'name the labels that count in {CLASSES}, as {_example(coding)}.'
        )
    else:
        named = {key: _default_name(key, coding) for key in found}
        if coding == VALUES and found == [0, 255]:
            named = {0: 'background', 255: 'foreground'}
        elif coding == VALUES and len(found) > 2:
            named.pop(IGNORE, None)
    named = {k: n for k, n in named.items() if n.lower() not in _IGNORED}
    if not 1 < len(named) <= MOST_CLASSES:
        raise ValueError(
            f'{folder}: {len(named)} classes; there have to be 2 to {MOST_CLASSES}. The masks hold '
            f'{_listing(found, coding)}.'
        )
    names = list(named.values())
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f'{listed} names {twice[0]!r} twice; every class has a name of its own.')
    return Classes(names, list(named))


def _named(path: Path, found: list[int], coding: str) -> dict[int, str]:
    lines = [x.strip() for x in path.read_text(encoding='utf-8-sig').splitlines()]
    lines = [x for x in lines if x and not x.startswith('#')]
    matches = [_NUMBERED[coding].fullmatch(x) for x in lines]
    if lines and all(matches):
        named: dict[int, str] = {}
        for match in matches:
            *parts, name = match.groups()
            if coding == COLORS and max(map(int, parts)) > 255:
                raise ValueError(f'{path}: {match[0]!r}: colours go from 0 to 255.')
            key = parts_to_key([int(x) for x in parts])
            if key in named:
                raise ValueError(f'{path}: {match[0]!r} names a label a second time.')
            named[key] = name.strip()
        return named
    labels = found
    if coding == VALUES and IGNORE in found and len(lines) == len(found) - 1:
        labels = [x for x in found if x != IGNORE]
    if len(lines) != len(labels):
        raise ValueError(
            f'{path} names {len(lines)} classes, but the masks hold {len(found)} {coding} '
            f'({_listing(found, coding)}); give as many names, or lines as {_example(coding)}.'
        )
    return dict(zip(labels, lines, strict=True))


def _listing(found: list[int], coding: str) -> str:
    shown = [label(key, coding) for key in found[:12]]
    return ', '.join(shown) + (', ...' if len(found) > 12 else '')


def label(key: int, coding: str) -> str:
    """A label as ``classes.txt`` writes it."""
    return str(key) if coding == VALUES else f'{key >> 16} {key >> 8 & 255} {key & 255}'


def _example(coding: str) -> str:
    return "'7 road'" if coding == VALUES else "'255 0 0 road'"


def _default_name(key: int, coding: str) -> str:
    return f'class_{key}' if coding == VALUES else f'color_{key:06x}'


def _color(index: int) -> list[int]:
    """Hues in golden steps, in three brightnesses."""
    hue, value = index * 0.618034 % 1.0, (0.95, 0.7, 0.5)[index % 3]
    return [round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, value)]
