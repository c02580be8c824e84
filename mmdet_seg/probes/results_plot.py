"""Scores of several encoders by how deep the layer lies."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mmdet_seg.probes.report_charts import SERIES, write_png
from mmdet_seg.probes.results import has_score, nearest_published
from mmdet_seg.probes.results_table import Comparison, Run, depth_of

_INK, _FAINT = '#333333', '#8a8a88'
_MARKS = 'osD^vPX'
_MOST_PUBLISHED = 6  # figures drawn as lines: the nearest ones
_DASHES = ('-', '--', ':')


def draw(tables: Sequence[Comparison], out: Path) -> None:
    """One picture: a part per table, a line per run, others' figures dashed.

    A point is the best row of a run that probes this layer alone.
    """
    figure = Figure(figsize=(7.5, 4.4 * len(tables)), dpi=130, layout='constrained')
    parts = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, table in zip(parts, tables, strict=True):
        lines = _lines(table)
        for number, (run, points) in enumerate(lines):
            colour = list(SERIES)[number % len(SERIES)]
            style = _DASHES[number // len(SERIES) % len(_DASHES)]
            mark = _MARKS[number % len(_MARKS)]
            label = f'{run.encoder}, {run.results.protocol}'
            axes.plot(
                *zip(*points, strict=True), f'{mark}{style}', color=colour, markersize=5,
                label=label if len(label) < 70 else f'{label[:67]}...',
            )  # fmt: skip
        best = max((score for _, points in lines for _, score in points), default=0.0)
        for other in nearest_published(table.published, best, _MOST_PUBLISHED):
            axes.axhline(other['score'], color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(
                0.005, other['score'], other['name'], transform=axes.get_yaxis_transform(),
                va='bottom', fontsize=8, color=_FAINT, parse_math=False,
            )  # fmt: skip
        axes.set(xlim=(0, 1.03), ylabel=f'{table.metric} (%)')
        axes.set_xlabel('depth of the layer (1: the last block)')
        axes.set_title(table.title, fontsize=10, color=_INK, loc='left', parse_math=False)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
        if lines:
            legend = axes.legend(
                frameon=False, fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.14)
            )
            for text in legend.get_texts():
                text.set_parse_math(False)
        else:
            axes.text(
                0.5, 0.5, 'no row of one layer', transform=axes.transAxes, ha='center', color=_FAINT
            )
    write_png(figure, out)


def _lines(table: Comparison) -> list[tuple[Run, list[tuple[float, float]]]]:
    """Depth and best score of the single layers of every run."""
    found: dict[Path, tuple[Run, dict[float, float]]] = {}
    for run, row in table.rows:
        depth = depth_of(run, row)
        if len(row['layers']) == 1 and depth is not None and has_score(row):
            _, points = found.setdefault(run.path, (run, {}))
            points[depth] = max(points.get(depth, 0.0), row['score'])
    return [(run, sorted(points.items())) for run, points in found.values()]
