"""A run's results as one page that a person looks at, and the charts as PNGs beside it."""

from pathlib import Path

from mmdet_seg.probes.report_charts import (
    class_chart,
    curve_chart,
    heat_chart,
    layer_chart,
    write_png,
)
from mmdet_seg.probes.report_page import page
from mmdet_seg.probes.results import Results, has_score
from mmdet_seg.probes.score_grid import score_grids


def write_report(folder: str | Path) -> Path:
    """Make ``report.html`` and PNGs from the ``results.json`` of a folder.

    The page holds everything, pictures too, and asks nothing of a network.

    Raises:
        FileNotFoundError: No results there.
        ValueError: They cannot be read.
    """
    folder = Path(folder)
    results = Results.read(folder)
    folder = folder if folder.is_dir() else folder.parent
    _write_charts(results, folder)
    aside = folder / '.report.html.part'
    aside.write_text(page(results, folder), encoding='utf-8')
    aside.replace(folder / 'report.html')
    return folder / 'report.html'


def _write_charts(results: Results, folder: Path) -> None:
    grids = score_grids(results)
    for grid in grids:
        end = f'_{grid.metric}' if len(grids) > 1 else ''
        end = ''.join(c if c.isalnum() or c in '_-' else '-' for c in end)
        write_png(heat_chart(grid), folder / f'heat_map{end}.png')
        if chart := layer_chart(grid, results.published):
            write_png(chart, folder / f'layers{end}.png')
    for what in ('loss', 'score'):
        if chart := curve_chart(results, what):
            write_png(chart, folder / f'{what}.png')
    rows = [row for row in results.rows if row.get('per_class') and has_score(row)]
    if rows:
        best = max(rows, key=lambda row: row['score'])
        if chart := class_chart(best, results.data['classes']):
            write_png(chart, folder / 'classes.png')
