"""Scores of a sweep as a grid: layers down, settings across."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmdet_seg.probes.results import Results, has_score

# What a row holds beside its settings.
_NOT_SETTINGS = {'name', 'layers', 'metric', 'score', 'scores', 'per_class', 'seed'}
_NOT_SETTINGS |= {'score_unquantized'}
_USUAL = ('combine', 'norm', 'lr', 'weight_decay')
_SHORT = {'weight_decay': 'decay', 'lr': 'rate'}


@dataclass
class ScoreGrid:
    """Rows of one metric, arranged.

    Attributes:
        metric: Its name.
        layers: What stands before the lines, one tuple of blocks each.
        settings: What stands above the columns.
        cells: ``cells[line][column]`` are the rows there: none, one, or one per seed.
        low: Lowest mean of a cell, in percent; NaN where no row has a score.
        high: Highest.
    """

    metric: str
    layers: list[tuple[int, ...]]
    settings: list[str]
    cells: list[list[list[dict[str, Any]]]]
    low: float
    high: float


def score_grids(results: Results) -> list[ScoreGrid]:
    """One grid per metric, in order of appearance."""
    metrics = dict.fromkeys(row['metric'] for row in results.rows)
    return [_grid(m, [r for r in results.rows if r['metric'] == m]) for m in metrics]


def cell_score(rows: Sequence[dict[str, Any]]) -> float:
    """Mean over the seeds of a cell; NaN where none has a score."""
    known = [row['score'] for row in rows if has_score(row)]
    return sum(known) / len(known) if known else math.nan


def setting_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The fewest settings that tell rows of one layer and different settings apart.

    Most useful ones first; what differs between all rows for another reason (seconds) falls out.
    """
    found = dict.fromkeys(key for row in rows for key in row if key not in _NOT_SETTINGS)
    keys = [k for k in (*_USUAL, *found) if len({_text(r.get(k)) for r in rows}) > 1]
    keys = list(dict.fromkeys(keys))
    wanted = len({_place(row, keys) for row in rows})
    for key in reversed(keys):
        fewer = [k for k in keys if k != key]
        if len({_place(row, fewer) for row in rows}) == wanted:
            keys = fewer
    return keys


def setting_text(row: dict[str, Any], keys: Sequence[str]) -> str:
    """Settings in words: ``rate 0.001, decay 0``."""
    return ', '.join(f'{_SHORT.get(k, k.replace("_", " "))} {_text(row.get(k))}' for k in keys)


def layers_text(layers: Sequence[int]) -> str:
    """``11`` or ``5+11+17+23``."""
    return '+'.join(map(str, layers)) or 'all'


def _grid(metric: str, rows: list[dict[str, Any]]) -> ScoreGrid:
    keys = setting_names(rows)
    layers = sorted({tuple(row['layers']) for row in rows}, key=lambda x: (len(x), x))
    order = {}  # settings by value, not by their text
    for row in rows:
        order.setdefault(setting_text(row, keys), [_sortable(row.get(k)) for k in keys])
    settings = sorted(order, key=order.__getitem__)
    cells: list[list[list[dict[str, Any]]]] = [[[] for _ in settings] for _ in layers]
    for row in rows:
        line, column = layers.index(tuple(row['layers'])), settings.index(setting_text(row, keys))
        cells[line][column].append(row)
    scores = [cell_score(cell) for line in cells for cell in line]
    known = [s for s in scores if not math.isnan(s)] or [math.nan]
    return ScoreGrid(metric, layers, settings, cells, min(known), max(known))


def _place(row: dict[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return (layers_text(row['layers']), *(_text(row.get(k)) for k in keys))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:g}'
    return 'none' if value is None else str(value)


def _sortable(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, float(value), '') if number else (1, 0.0, _text(value))
