"""Pieces of a report's page. Whatever a person typed is escaped here."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from mmdet_seg.probes.results import has_score
from mmdet_seg.probes.score_grid import ScoreGrid, cell_score, layers_text

_WIDEST = 960  # pixels of an inlined picture
_SMALL = 160  # below, cells of a grid stay sharp when the page enlarges it


class Html(str):
    """Text that is HTML already; any other is escaped."""


def number(value: float | None, digits: int = 2) -> str:
    """``12.30``, or nothing."""
    return '' if value is None or not math.isfinite(value) else f'{value:.{digits}f}'


def data_uri(path: Path) -> tuple[str, int, int]:
    """A picture as text, whichever of PNG and JPEG is smaller, with its width and height.

    Raises:
        OSError: It is missing or broken.
    """
    with Image.open(path) as opened:
        image = opened.convert('RGB')
    image.thumbnail((_WIDEST, _WIDEST))
    found = []
    for kind, options in (('png', {'optimize': True}), ('jpeg', {'quality': 88})):
        out = io.BytesIO()
        image.save(out, kind, **options)
        found.append((out.getvalue(), kind))
    content, kind = min(found, key=lambda f: len(f[0]))
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}', *image.size


def figure(source: str, size: tuple[int, int], caption: str, alt: str = '') -> str:
    """An image with what it shows below."""
    words, (width, height) = escape(caption), size
    small = ' class="small"' if width < _SMALL else ''
    return (
        f'<figure><img{small} src="{source}" width="{width}" height="{height}" '
        f'alt="{escape(alt) or words}"><figcaption>{words}</figcaption></figure>'
    )


def chart(svg: str, caption: str) -> str:
    """A drawing with what it shows below."""
    svg = svg.replace('<svg', f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f'<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, those without a value left out."""
    shown = [(n, v) for n, v in pairs if v not in (None, '', [])]
    cells = ''.join(f'<div><dt>{escape(n)}</dt><dd>{escape(str(v))}</dd></div>' for n, v in shown)
    return f'<dl class="facts">{cells}</dl>'


def bars(entries: Sequence[tuple[str, float, str, bool]]) -> str:
    """Name, percent, source and whether it is ours: one bar each."""
    top = max([1e-9, *(value for _, value, _, _ in entries)])
    lines = []
    for name, value, source, ours in entries:
        hint = f'<br><span class="soft">{escape(source)}</span>' if source else ''
        lines.append(
            f'<div{" class=ours" if ours else ""}><dt>{escape(name)}{hint}</dt><dd class="track">'
            f'<i style="width:{100 * value / top:.1f}%"></i></dd>'
            f'<dd class="num">{value:.2f}</dd></div>'
        )
    return f'<dl class="bars">{"".join(lines)}</dl>'


def heat_map(grid: ScoreGrid) -> str:
    """Layers by settings as a coloured table; the best cell has a frame."""
    heads = ''.join(f'<th scope="col">{escape(s or grid.metric)}</th>' for s in grid.settings)
    lines = []
    for layers, cells in zip(grid.layers, grid.cells, strict=True):
        shown = ''.join(_heat_cell(cell, grid) for cell in cells)
        lines.append(f'<tr><th scope="row">{layers_text(layers)}</th>{shown}</tr>')
    stops = ','.join(_colour(i / 8)[0] for i in range(9))
    scale = (
        f'<div class="scale"><span>{number(grid.low)}</span>'
        f'<i style="background:linear-gradient(90deg,{stops})"></i>'
        f'<span>{number(grid.high)} {escape(grid.metric)}, %</span></div>'
    )
    return (
        f'<div class="scroll"><table class="heat"><thead><tr><th scope="col">layer</th>{heads}</tr>'
        f'</thead><tbody>{"".join(lines)}</tbody></table></div>{scale}'
    )


def _heat_cell(rows: list[dict[str, Any]], grid: ScoreGrid) -> str:
    if not rows:
        return '<td class="none">&middot;</td>'
    score, names = cell_score(rows), '; '.join(row['name'] for row in rows)
    if math.isnan(score):
        return f'<td class="none" title="{escape(names)}">failed</td>'
    share = (score - grid.low) / (grid.high - grid.low) if grid.high > grid.low else 1.0
    paper, ink = _colour(share)
    best = ' class="best"' if score == grid.high else ''
    known = [row['score'] for row in rows if has_score(row)]
    spread = f' &plusmn;{(max(known) - min(known)) / 2:.2f}' if len(known) > 1 else ''
    return (
        f'<td{best} style="background:{paper};color:{ink}" title="{escape(names)}">'
        f'{score:.2f}{spread}</td>'
    )


def _colour(share: float) -> tuple[str, str]:
    """Paper of cividis, and the ink that is legible on it."""
    red, green, blue = (round(255 * c) for c in matplotlib.colormaps['cividis'](share)[:3])
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 120
    return f'#{red:02x}{green:02x}{blue:02x}', '#111' if light else '#fff'


def table(
    heads: Sequence[tuple[str, bool]],
    lines: Sequence[tuple[str, Sequence[str]]],
    kind: str,
) -> str:
    """A table that sorts where scripts run.

    Args:
        heads: Title and whether the column holds numbers.
        lines: Class of the line and its cells: text, or :class:`Html` with the ``<td>``.
        kind: Class of the table.
    """
    head = ''.join(
        f'<th scope="col"{" class=num" if n else ""}>{escape(title)}</th>' for title, n in heads
    )
    body = ''.join(
        f'<tr{f" class={escape(name)}" if name else ""}>'
        + ''.join(
            cell
            if isinstance(cell, Html)
            else f'<td{" class=num" if n else ""}>{escape(cell)}</td>'
            for cell, (_, n) in zip(cells, heads, strict=True)
        )
        + '</tr>'
        for name, cells in lines
    )
    return (
        f'<div class="scroll"><table class="{kind}" data-sort><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>'
    )
