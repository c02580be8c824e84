"""The sections of a report's page, made from results and their pictures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from shlex import join
from typing import Any

from mmdet_seg.probes.report_charts import as_svg, curve_chart, layer_chart
from mmdet_seg.probes.report_html import (
    Html,
    bars,
    chart,
    data_uri,
    facts,
    figure,
    heat_map,
    number,
    table,
)
from mmdet_seg.probes.report_style import SCRIPT, style
from mmdet_seg.probes.results import Results, has_score, nearest_published
from mmdet_seg.probes.score_grid import ScoreGrid, layers_text, score_grids

_TASKS = {
    'segment': 'Segmentation by linear probes',
    'classify': 'Classification by probes',
    'retrieve': 'Segmentation by nearest neighbours',
}
# Nothing is fetched from anywhere, whatever the results hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_MOST_PUBLISHED = 6  # bars beside the best row's; the others unfold
_UNITS = ((1 << 30, 'GiB'), (1 << 20, 'MiB'), (1 << 10, 'KiB'), (1, 'bytes'))


def page(results: Results, folder: Path) -> str:
    """The whole page.

    Args:
        results: Of the run.
        folder: Where its pictures are.
    """
    grids = score_grids(results)
    title = f'{_TASKS[results.task]}: {results.encoder["name"]} on {results.data["name"]}'
    parts = [
        f'<h1>{escape(title)}</h1>',
        _subtitle(results),
        _headline(results),
        _notes(results),
        *(_grid_section(grid, results, len(grids) > 1) for grid in grids),
        _curves(results),
        _classes(results),
        _pictures(results, folder),
        _rows(results),
        _cost(results),
        _run(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f'<title>{escape(title)}</title>\n<style>{style()}</style></head>\n<body><main>\n'
        + '\n'.join(part for part in parts if part)
        + f'\n</main>\n<script>{SCRIPT}</script></body></html>\n'
    )


def _subtitle(results: Results) -> str:
    encoder, data = results.encoder, results.data
    words = [
        f'protocol {results.protocol}',
        f'{data["num_train"]:,} images to learn from, {data["num_val"]:,} to score',
        f'{len(data["classes"])} classes',
        f'encoder of {encoder["depth"]} blocks, {encoder["embed_dim"]} channels',
        results.date[:10],
    ]
    return f'<p class="soft wide">{escape("; ".join(w for w in words if w))}</p>'


def _headline(results: Results) -> str:
    try:
        best = results.best()
    except ValueError as error:
        return f'<p><strong>{escape(str(error))}</strong></p>'
    entries = [(f'best row: {best["name"]}', best['score'], '', True)]
    entries += [
        (other['name'], other['score'], other.get('source', ''), False)
        for other in nearest_published(results.published, best['score'], _MOST_PUBLISHED)
    ]
    entries.sort(key=lambda entry: -entry[1])
    left = (
        f'<div><div class="score">{best["score"]:.2f}<small>{escape(best["metric"])}, %</small>'
        f'</div><p>{escape(best["name"])}<br><span class="soft">layer '
        f'{layers_text(best["layers"])}, best of {len(results.rows)}</span></p></div>'
    )
    right = bars(entries) if results.published else ''
    if len(results.published) > _MOST_PUBLISHED:
        right = f'<div>{right}{_all_published(results)}</div>'
    return f'<div class="headline">{left}{right}</div>'


def _all_published(results: Results) -> str:
    lines = [
        ('', [other['name'], number(other['score']), other.get('source', '')])
        for other in sorted(results.published, key=lambda other: -other['score'])
    ]
    heads = [('published', False), ('score, %', True), ('source', False)]
    return (
        f'<details><summary>all {len(lines)} published figures</summary>'
        f'{table(heads, lines, "others")}</details>'
    )


def _notes(results: Results) -> str:
    notes = ''.join(f'<li>{escape(str(note))}</li>' for note in results.notes)
    return f'<ul class="notes">{notes}</ul>' if notes else ''


def _grid_section(grid: ScoreGrid, results: Results, named: bool) -> str:
    of = f': {grid.metric}' if named else ''
    text = 'Best of all with a frame. Layers are blocks, counted from 0.'
    if any(len(cell) > 1 for line in grid.cells for cell in line):
        text += ' A cell is the mean over seeds, &plusmn; half of what they span.'
    drawn = layer_chart(grid, results.published)
    line = ''
    if drawn:
        caption = f'{grid.metric} by the layer that is probed'
        caption += '; dashed: published' if results.published else ''
        line = f'<div class="charts">{chart(as_svg(drawn, "layers" + grid.metric), caption)}</div>'
    return (
        f'<section id="heat-{escape(grid.metric)}"><h2>Layers and settings{escape(of)}</h2>'
        f'<p class="soft">{text}</p>{heat_map(grid)}{line}</section>'
    )


def _curves(results: Results) -> str:
    charts = []
    for what, caption in (('loss', 'Training loss'), ('score', 'Score on the validation images')):
        if drawn := curve_chart(results, what):
            charts.append(chart(as_svg(drawn, what), caption))
    shown = ''.join(charts)
    return f'<section><h2>Curves</h2><div class="charts">{shown}</div></section>' if charts else ''


def _rows(results: Results) -> str:
    metrics = list(dict.fromkeys(m for row in results.rows for m in row.get('scores') or {}))
    skipped = {'name', 'layers', 'metric', 'score', 'scores', 'per_class'}
    keys = dict.fromkeys(k for row in results.rows for k in row if k not in skipped)
    keys = [k for k in keys if any(row.get(k) is not None for row in results.rows)]
    main = dict.fromkeys(row['metric'] for row in results.rows)
    heads = [('name', False), ('layers', False), (f'{" / ".join(main)}, %', True)]
    metrics = [m for m in metrics if m not in main or len(main) > 1]
    heads += [(m, True) for m in metrics] + [(k.replace('_', ' '), False) for k in keys]
    known = [row['score'] for row in results.rows if has_score(row)]
    top = max(known, default=None)
    lines = []
    for row in sorted(results.rows, key=lambda r: -r['score'] if has_score(r) else 1):
        scores = row.get('scores') or {}
        score = row['score'] if has_score(row) else None
        shown = number(score) or Html('<td class="num soft" data-value="">failed</td>')
        cells = [row['name'], layers_text(row['layers']), shown]
        cells += [number(scores.get(m)) for m in metrics] + [_setting(row.get(k)) for k in keys]
        lines.append(('best' if row.get('score') == top and known else '', cells))
    shown = table(heads, lines, 'rows')
    return f'<section><h2>All rows</h2>{shown}</section>' if lines else ''


def _classes(results: Results) -> str:
    rows = [row for row in results.rows if row.get('per_class') and has_score(row)]
    if not rows:
        return ''
    best = max(rows, key=lambda row: row['score'])
    others = [other for other in results.published if other.get('per_class')]
    heads = [('class', False), ('best row, %', True)]
    for other in others:
        heads += [(f'{other["name"]} (published)', True), ('difference', True)]
    lines = []
    for name in results.data['classes']:
        ours = best['per_class'].get(name)
        shown = '&ndash;' if ours is None else f'{ours:.2f}'
        bar = f'style="--w:{0.7 * (ours or 0):.1f}%" data-value="{"" if ours is None else ours}"'
        cells: list[str] = [str(name), Html(f'<td class="num bar" {bar}>{shown}</td>')]
        for other in others:
            theirs = other['per_class'].get(name)
            both = ours is not None and theirs is not None
            cells += [number(theirs), f'{ours - theirs:+.2f}' if both else '']
        lines.append(('', cells))
    text = f'{escape(best["name"])}. &ndash;: neither in the images nor predicted.'
    if not others:
        text += ' No published per-class rows are known for this data.'
    return (
        f'<section><h2>Classes</h2><p class="soft">{text}</p>{table(heads, lines, "per")}</section>'
    )


def _pictures(results: Results, folder: Path) -> str:
    """What patches look like, by image; then the worst and the best images."""
    parts = []
    plain = [p for p in results.pictures if p.get('kind') in ('image', 'pca', 'attention')]
    groups = dict.fromkeys(str(p.get('group', '')) for p in plain)
    if plain:
        text = (
            'Equal colours are equal features: the first three components of a layer, over all '
            'images together.'
        )
        if any(p['kind'] == 'attention' for p in plain):
            text += (
                ' Attention: what the class token looks at (without one, all patches), the mean '
                'of the heads, bright for much.'
            )
        parts.append(f'<h2>What patches look like</h2><p class="soft">{text}</p>')
    for group in groups:
        here = [p for p in plain if str(p.get('group', '')) == group]
        here.sort(key=lambda p: p['kind'] == 'attention')
        parts.append(_gallery(here, folder, group, ''))
    for kind, title in (('worst', 'Worst images'), ('best', 'Best images'), (None, 'Pictures')):
        known = ('image', 'pca', 'attention', 'worst', 'best')
        here = [
            p
            for p in results.pictures
            if (p.get('kind') == kind if kind else p.get('kind') not in known)
        ]
        if here:
            parts.append(f'<h2>{title}</h2>{_gallery(here, folder, "", " wide")}')
    return f'<section>{"".join(parts)}</section>' if parts else ''


def _gallery(pictures: Sequence[dict[str, Any]], folder: Path, title: str, kind: str) -> str:
    shown = []
    for picture in pictures:
        score = picture.get('score')
        caption = picture['title'] + (f': {score:.1f} %' if score is not None else '')
        try:
            source, *size = data_uri(folder / picture['file'])
        except (OSError, ValueError):
            shown.append(f'<p class="soft">{escape(picture["file"])} is missing or broken.</p>')
            continue
        shown.append(figure(source, (size[0], size[1]), caption, f'{title} {caption}'.strip()))
    head = f'<h3>{escape(title)}</h3>' if title else ''
    return f'{head}<div class="pictures{kind}">{"".join(shown)}</div>'


def _cost(results: Results) -> str:
    shown = []
    for key, value in results.cost.items():
        if value is None:
            continue
        name = key.replace('_', ' ')
        if key.endswith('_bytes'):
            shown.append((name.removesuffix(' bytes'), in_bytes(value)))
        elif key.endswith('seconds'):
            shown.append((name.replace('seconds', 'time'), in_time(value)))
        elif isinstance(value, float):
            shown.append((name, f'{value:.3g}' if value < 100 else f'{value:,.0f}'))
        else:
            shown.append((name, value))
    return f'<section><h2>Cost</h2>{facts(shown)}</section>' if shown else ''


def _run(results: Results) -> str:
    encoder, data = results.encoder, results.data
    parameters = encoder.get('num_parameters')
    pairs = [
        ('encoder', encoder['name']),
        ('parameters', f'{parameters / 1e6:,.1f} M' if parameters else None),
        ('patch', f'{encoder["patch_size"]} pixels'),
        ('precision', encoder.get('dtype')),
        ('quantised', encoder.get('quantization') or 'no'),
        ('identity of the weights', encoder.get('identity')),
        ('data', data['name']),
        ('from', data.get('root')),
        ('date', results.date),
        *results.machine.items(),
    ]
    command = f'<pre>{escape(join(results.command))}</pre>' if results.command else ''
    return f'<section><h2>What was run</h2>{command}{facts(pairs)}</section>'


def in_bytes(value: float) -> str:
    """``1.50 GiB``."""
    for size, unit in _UNITS:
        if value >= size and value:
            return f'{value / size:.2f} {unit}' if size > 1 else f'{value:.0f} {unit}'
    return '0 bytes'


def in_time(seconds: float) -> str:
    """``59.1 s``, ``2 min 03 s`` or ``1 h 02 min``."""
    if seconds < 60:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f'{hours} h {left:02d} min' if hours else f'{minutes} min {rest:02d} s'


def _setting(value: Any) -> str:
    if value is None:
        return ''
    return f'{value:g}' if isinstance(value, float) else str(value)
