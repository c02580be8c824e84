"""Charts of a report. Each is drawn once and written as a PNG and as SVG that follows the page."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmdet_seg.probes.results import Results, nearest_published
from mmdet_seg.probes.score_grid import ScoreGrid, cell_score, layers_text

INK = '#333333'
_FAINT = '#8a8a88'
# On white and on black paper: Okabe and Ito's colours, which the colour-blind tell apart.
SERIES = {
    '#0072b2': '#56b4e9',
    '#d55e00': '#ff9147',
    '#009e73': '#3fd0a4',
    '#cc79a7': '#e39dc4',
    '#b58900': '#f0e442',
    '#7a5fb5': '#b9a5ec',
    '#5b5b59': '#c0c0bd',
}
DARK = {INK: '#d8d8d4', _FAINT: '#8f8f8b', **SERIES}
_MARKS = 'osD^vPX'
_MOST_PUBLISHED = 4  # figures drawn as lines: the nearest ones
_MOST_LINES = 7  # with a name in the legend; of more, the best are named


def layer_chart(grid: ScoreGrid, published: Sequence[dict]) -> Figure | None:
    """The best score of every single layer, a line per setting; None for fewer than two layers."""
    singles = [i for i, layers in enumerate(grid.layers) if len(layers) == 1]
    if len(singles) < 2:
        return None
    where = [grid.layers[i][0] for i in singles]
    lines = []
    for column, setting in enumerate(grid.settings):
        scores = [cell_score(grid.cells[i][column]) for i in singles]
        if not all(map(math.isnan, scores)):
            lines.append((setting, scores))
    if not lines:
        return None
    figure, axes = _figure()
    best = sorted(lines, key=lambda line: -np.nanmax(line[1]))[:_MOST_LINES]
    for line in lines:
        if line not in best:
            axes.plot(where, line[1], color=_FAINT, linewidth=0.8, alpha=0.6)
    for (setting, scores), colour, mark in zip(best, SERIES, _MARKS, strict=False):
        label = setting or grid.metric
        axes.plot(where, scores, f'{mark}-', color=colour, markersize=5, label=label)
    for other in nearest_published(published, grid.high, _MOST_PUBLISHED):
        axes.axhline(other['score'], color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            1, other['score'], f'{other["name"]} ', transform=axes.get_yaxis_transform(),
            ha='right', va='bottom', fontsize=8, color=_FAINT, parse_math=False,
        )  # fmt: skip
    axes.set(xlabel='layer (block, from 0)', ylabel=f'{grid.metric} (%)')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1:
        _legend(axes, len(best) < len(lines))
    return figure


def curve_chart(results: Results, what: str) -> Figure | None:
    """``loss`` or ``score`` over steps; the best rows have a name, the others are thin."""
    found = {n: c[what] for n, c in results.curves.items() if c.get(what)}
    if not found:
        return None
    score = {row['name']: row['score'] for row in results.rows}
    order = sorted(found, key=lambda n: -_known(score.get(n), -1))
    figure, axes = _figure()
    for name in order[_MOST_LINES:]:
        axes.plot(*_points(found[name]), color=_FAINT, linewidth=0.7, alpha=0.5)
    for name, colour, mark in zip(order, SERIES, _MARKS, strict=False):
        steps, values = _points(found[name])
        marks = mark if len(steps) < 20 else ''
        axes.plot(steps, values, f'{marks}-', color=colour, linewidth=1.3, markersize=4, label=name)
    if what == 'loss':
        values = np.concatenate([_points(c)[1] for c in found.values()])
        values = values[np.isfinite(values)]
        if len(values):  # a probe that ran away must not flatten the others
            axes.set_ylim(0, 1.1 * max(float(np.quantile(values, 0.98)), 1e-6))
    label = results.rows[0]['metric'] + ' (%)' if what == 'score' else 'loss'
    axes.set(xlabel='step', ylabel=label)
    _legend(axes, len(order) > _MOST_LINES)
    return figure


def heat_chart(grid: ScoreGrid) -> Figure:
    """Layers by settings, as in the page, for people who want the picture alone."""
    scores = np.array([[cell_score(cell) for cell in line] for line in grid.cells])
    height, width = scores.shape
    figure = Figure(figsize=(max(4.5, 0.95 * width + 2.2), max(2.6, 0.42 * height + 1.9)), dpi=110)
    axes = figure.subplots()
    image = axes.imshow(scores, aspect='auto', cmap='cividis')
    for (y, x), score in np.ndenumerate(scores):
        dark = math.isnan(score) or score > (grid.low + grid.high) / 2
        text = 'failed' if math.isnan(score) and grid.cells[y][x] else f'{score:.2f}'
        if grid.cells[y][x]:
            ink = 'black' if dark else 'white'
            axes.text(x, y, text, ha='center', va='center', fontsize=8, color=ink)
    names = [s or grid.metric for s in grid.settings]
    slant = {'rotation': 30, 'ha': 'right'} if width > 3 else {}
    axes.set_xticks(range(width), names, fontsize=8, parse_math=False, **slant)
    axes.set_yticks(range(height), [layers_text(x) for x in grid.layers], fontsize=8)
    axes.set_ylabel('layer (block, from 0)')
    figure.colorbar(image, ax=axes, label=f'{grid.metric} (%)')
    figure.tight_layout()
    return figure


def class_chart(row: dict, classes: Sequence[str]) -> Figure | None:
    """Bars of one row's classes, best first, at most 60 of them."""
    found = [(row['per_class'][c], c) for c in classes if (row['per_class'] or {}).get(c)]
    found = sorted(found)[-60:]
    if not found:
        return None
    values, names = zip(*found, strict=True)
    figure = Figure(figsize=(6, max(2.2, 0.22 * len(found) + 1)), dpi=110)
    axes = figure.subplots()
    axes.barh(range(len(found)), values, color='#0072b2', height=0.7)
    for place, value in enumerate(values):
        axes.text(value, place, f' {value:.1f}', va='center', fontsize=7, color=INK)
    axes.set_yticks(range(len(found)), names, fontsize=7, parse_math=False)
    axes.set(xlim=(0, 110), xlabel=f'{row["metric"]} of a class (%)')
    axes.set_title(row['name'], fontsize=9, color=INK, parse_math=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """As a file, on white."""
    FigureCanvasAgg(figure).print_png(str(path))


def as_svg(figure: Figure, salt: str) -> str:
    """As an element for a page, text as text, colours as the page's ``--x...`` variables.

    Args:
        figure: The chart.
        salt: Another one for every chart of a page; the elements' names come from it.
    """
    out = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': salt}):
        figure.savefig(out, format='svg', transparent=True, metadata={'Date': None})
    text = out.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', '<g', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', text, count=1)
    text = re.sub(r'font: ([\d.]+)px [^;\"]*', r'font-size: \1px', text)
    for colour in DARK:
        text = text.replace(f': {colour}', f': var(--x{colour[1:]})')
    return text


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.5), dpi=110, layout='constrained')
    axes = figure.subplots()
    axes.spines[['top', 'right']].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(alpha=0.2, color=_FAINT)
    return figure, axes


def _legend(axes: Axes, more: bool) -> None:
    legend = axes.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc='upper center',
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
        title='best rows; the others are thin lines' if more else None,
        title_fontsize=8,
    )
    legend.get_title().set_color(INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
        if len(text.get_text()) > 40:
            text.set_text(text.get_text()[:39] + '...')


def _points(curve: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([[s, _known(v, math.nan)] for s, v in curve], dtype=float)
    return points[:, 0], points[:, 1]


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else value
