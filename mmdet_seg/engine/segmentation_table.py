"""The table of a segmentation benchmark: Markdown, CSV, JSON and PNG."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_HEAD = ('pair', 'mIoU', 'aAcc', 'mAcc', 'published', 's/image', 'peak MiB', 'images', 'note')
_INK = '#333333'


def write_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``table.md``, ``.csv``, ``.json`` and ``.png``; a killed write leaves the old ones."""
    texts = {
        'md': f'{markdown(rows)}\n\n{per_class(rows)}\n',
        'csv': _csv(rows),
        'json': json.dumps(_finite(rows), indent=1, allow_nan=False) + '\n',
    }
    for suffix, text in texts.items():
        aside = folder / f'.table.{suffix}.part'
        aside.write_text(text)
        aside.replace(folder / f'table.{suffix}')
    aside = folder / '.table.png.part'
    _draw(aside, rows)
    aside.replace(folder / 'table.png')


def markdown(rows: list[dict[str, Any]]) -> str:
    """A row per pair; what failed says why in the last column."""
    lines = [f'| {" | ".join(_HEAD)} |', '|---|---:|---:|---:|---:|---:|---:|---:|---|']
    return '\n'.join([*lines, *(f'| {" | ".join(_cells(row))} |' for row in rows)])


def per_class(rows: list[dict[str, Any]]) -> str:
    """IoU in percent: a row per class, a column per pair that was evaluated."""
    done = [row for row in rows if not row['error']]
    if not done:
        return ''
    lines = [
        f'| IoU | {" | ".join(_plain(row["title"]) for row in done)} |',
        f'|---|{"---:|" * len(done)}',
    ]
    for name in _classes(done):
        cells = (_number(row['per_class_iou'].get(name)) for row in done)
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    published = _number(row['published'])
    if row['error']:
        return [_plain(row['title']), '', '', '', published, '', '', '', _plain(row['error'])]
    metrics = row['metrics']
    figures = [_number(metrics.get(name)) for name in ('mIoU', 'aAcc', 'mAcc')]
    cost = [f'{row["seconds_per_image"]:.3f}', str(row['peak_memory_mib']), str(row['images'])]
    return [_plain(row['title']), *figures, published, *cost, '']


def _csv(rows: list[dict[str, Any]]) -> str:
    classes = _classes([row for row in rows if not row['error']])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*_HEAD, *(f'IoU {name}' for name in classes)])
    for row in rows:
        found = row.get('per_class_iou', {})
        writer.writerow([*_cells(row), *(_number(found.get(name)) for name in classes)])
    return text.getvalue()


def _classes(rows: list[dict[str, Any]]) -> list[str]:
    """Of all rows, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row['per_class_iou']))


def _draw(out: Path, rows: list[dict[str, Any]]) -> None:
    """Bars of mIoU with the published figure as a mark, and a heat map of IoU per class."""
    done = [row for row in rows if not row['error']]
    classes = _classes(done)
    height = max(2.6, 0.55 * len(rows) + 1.6)
    below = max(2.6, 0.34 * len(done) + 1.9) if done else 0.2
    figure = Figure(figsize=(max(9, 0.34 * len(classes) + 3.5), height + below), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, height_ratios=[height, below]) if done else [figure.subplots()]
    places = np.arange(len(rows))
    values = [row['metrics']['mIoU'] if not row['error'] else 0.0 for row in rows]
    axes[0].barh(places, values, color='#3182bd', height=0.6)
    for place, row, value in zip(places, rows, values, strict=True):
        text = ' failed' if row['error'] else f' {value:.2f}'
        axes[0].text(value, place, text, va='center', color=_INK, fontsize=9)
    known = [(r['published'], p) for r, p in zip(rows, places, strict=True) if r['published']]
    if known:
        axes[0].plot(*zip(*known, strict=True), 'D', color='#e6550d', label='published')
        above = dict(loc='lower right', bbox_to_anchor=(1, 1))  # never over a bar
        axes[0].legend(frameon=False, fontsize=9, **above)
    axes[0].set_yticks(places, [row['title'] for row in rows])
    axes[0].invert_yaxis()
    axes[0].set_xlim(0, 1.15 * max([1.0, *values, *(k[0] for k in known)]))
    axes[0].set(title='mIoU (%)')
    axes[0].spines[['top', 'right']].set_visible(False)
    if done:
        _heat_map(axes[1], done, classes)
    figure.tight_layout(pad=1.5)
    canvas.print_png(str(out))


def _heat_map(axis: Any, rows: list[dict[str, Any]], classes: list[str]) -> None:
    found = [[row['per_class_iou'].get(name) for name in classes] for row in rows]
    grid = np.array([[math.nan if v is None else v for v in line] for line in found], dtype=float)
    axis.imshow(grid, aspect='auto', cmap='viridis', vmin=0, vmax=100)
    axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), [row['title'] for row in rows], fontsize=8)
    axis.set(title='IoU per class (%); white: does not occur')
    if len(classes) <= 40:
        for (y, x), value in np.ndenumerate(grid):
            if not math.isnan(value):
                colour = 'white' if value < 65 else 'black'
                axis.text(x, y, f'{value:.0f}', ha='center', va='center', color=colour, fontsize=7)


def _number(value: float | None) -> str:
    return '' if value is None or math.isnan(value) else f'{value:.2f}'


def _plain(text: str) -> str:
    return text.replace('|', '/')


def _finite(value: Any) -> Any:
    """NaN becomes null, which JSON has."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
