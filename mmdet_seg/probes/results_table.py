"""Runs side by side: Markdown for people, CSV for programs.

What was scored on different data, or by another metric, is never put under one head.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet_seg.probes.results import Results, has_score
from mmdet_seg.probes.score_grid import layers_text

_SETTINGS = ('combine', 'norm', 'lr', 'weight_decay', 'seed')
_MAIN = {'name', 'layers', 'metric', 'score', 'scores', 'per_class'}


@dataclass
class Run:
    """One run's results and where they lie."""

    path: Path
    results: Results

    @property
    def encoder(self) -> str:
        """Name, and how it was quantised."""
        how = self.results.encoder.get('quantization')
        return self.results.encoder['name'] + (f' ({how})' if how else '')


@dataclass
class Comparison:
    """Rows that may stand under one head.

    Attributes:
        task: What was done.
        data: Name of the data.
        metric: Of the score.
        num_val: Images that were scored.
        rows: Run and row, best first.
        published: Others' figures, best first, each once.
        classes: Names.
        notes: Of the runs, each once.
    """

    task: str
    data: str
    metric: str
    num_val: int
    classes: tuple[str, ...]
    rows: list[tuple[Run, dict[str, Any]]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """``scenes, segment: mIoU (%), 100 images``."""
        return f'{self.data}, {self.task}: {self.metric} (%), {self.num_val:,} images'


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Results of the runs, each folder once.

    Raises:
        FileNotFoundError: A run without results.
        ValueError: Results that cannot be read.
    """
    unique = {Path(p).resolve(): p for p in reversed(paths)}  # messages name what was typed
    runs = [Run(path, Results.read(typed)) for path, typed in unique.items()]
    return runs[::-1]


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Every row of every run, by task, data and metric."""
    found: dict[tuple, Comparison] = {}
    for run in runs:
        results, data = run.results, run.results.data
        for row in results.rows:
            classes = tuple(map(str, data['classes']))
            key = (results.task, data['name'], row['metric'], data['num_val'], classes)
            table = found.setdefault(key, Comparison(*key))
            table.rows.append((run, row))
            for other in results.published:
                known = {(o['name'], o['score']) for o in table.published}
                if (other['name'], other['score']) not in known:
                    table.published.append(other)
            notes = [f'{run.encoder}: {note}' for note in results.notes]
            table.notes += [note for note in notes if note not in table.notes]
    for table in found.values():
        table.rows.sort(key=lambda pair: -pair[1]['score'] if has_score(pair[1]) else 1)
        table.published.sort(key=lambda other: -other['score'])
        table.notes += _warnings(table)
    return list(found.values())


def markdown(tables: Sequence[Comparison], *, every_row: bool = False) -> str:
    """A table each.

    Args:
        tables: From :func:`compare`.
        every_row: All rows of a run, not the best alone.
    """
    return '\n\n'.join(_one(table, every_row) for table in tables) + '\n'


def as_csv(tables: Sequence[Comparison]) -> str:
    """Every row of every run, one a line, settings and metrics in columns of their own."""
    rows = [(table, run, row) for table in tables for run, row in table.rows]
    settings = list(dict.fromkeys(k for _, _, row in rows for k in row if k not in _MAIN))
    metrics = list(dict.fromkeys(m for _, _, row in rows for m in row.get('scores') or {}))
    head = ['task', 'data', 'num_train', 'num_val', 'metric', 'score', 'encoder', 'identity']
    head += ['quantization', 'dtype', 'num_parameters', 'protocol', 'row', 'layers', 'depth']
    head += ['depth_fraction', *settings, *(f'score {m}' for m in metrics), 'run']
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(head)
    for table, run, row in rows:
        encoder, data, scores = run.results.encoder, run.results.data, row.get('scores') or {}
        line = [table.task, table.data, data['num_train'], data['num_val'], table.metric]
        line += [row['score'], encoder['name'], encoder['identity'], encoder.get('quantization')]
        line += [encoder.get('dtype'), encoder.get('num_parameters'), run.results.protocol]
        line += [row['name'], layers_text(row['layers']), encoder['depth'], depth_of(run, row)]
        line += [row.get(k) for k in settings] + [scores.get(m) for m in metrics] + [run.path]
        writer.writerow(['' if value is None else value for value in line])
    return out.getvalue()


def depth_of(run: Run, row: dict[str, Any]) -> float | None:
    """Where the last layer of a row lies: above 0, and 1 for the encoder's last block."""
    if not row['layers']:
        return None
    return round((max(row['layers']) + 1) / run.results.encoder['depth'], 4)


def _one(table: Comparison, every_row: bool) -> str:
    rows, seen = [], set()
    for run, row in table.rows:
        if every_row or run.path not in seen:
            rows.append((run, row))
        seen.add(run.path)
    metrics = list(dict.fromkeys(m for _, row in rows for m in row.get('scores') or {}))
    metrics = [m for m in metrics if m != table.metric]
    head = ['encoder', 'protocol', table.metric, *metrics, 'layer', 'settings', 'train images']
    head += ['seconds', 'run']
    right = {2, *range(3, 3 + len(metrics)), len(head) - 3, len(head) - 2}
    lines = [(row['score'] if has_score(row) else -1, _cells(run, row, metrics))
             for run, row in rows]  # fmt: skip
    for other in table.published:
        blank = [''] * (len(metrics) + 4)
        source = f'published: {other["source"]}' if other.get('source') else 'published'
        lines.append((other['score'], [other['name'], '', f'{other["score"]:.2f}', *blank, source]))
    lines.sort(key=lambda line: -line[0])
    rule = ['---:' if i in right else '---' for i in range(len(head))]
    text = [_line(head), _line(rule), *(_line(cells) for _, cells in lines)]
    notes = [f'- {_plain(note)}' for note in table.notes]
    return '\n'.join([f'**{_plain(table.title)}**', '', *text, *([''] if notes else []), *notes])


def _cells(run: Run, row: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    results, scores = run.results, row.get('scores') or {}
    settings = ', '.join(
        f'{k.replace("_", " ")} {f"{row[k]:g}" if isinstance(row[k], float) else row[k]}'
        for k in _SETTINGS
        if row.get(k) is not None
    )
    seconds = results.cost.get('seconds')
    return [
        run.encoder,
        results.protocol,
        _number(row['score']) if has_score(row) else 'failed',
        *(_number(scores.get(m)) for m in metrics),
        layers_text(row['layers']),
        settings or row['name'],
        f'{results.data["num_train"]:,}',
        '' if seconds is None else f'{seconds:.0f}',
        run.path.name,
    ]


def _warnings(table: Comparison) -> list[str]:
    """What a reader of one table would take for equal and is not."""
    found, runs = [], {run.path: run for run, _ in table.rows}.values()
    trained = sorted({run.results.data['num_train'] for run in runs})
    if len(trained) > 1:
        found.append(f'Not the same number of training images: {", ".join(map(str, trained))}.')
    protocols = list(dict.fromkeys(run.results.protocol for run in runs))
    if len(protocols) > 1:
        found.append(f'Not the same protocol: {", ".join(protocols)}.')
    for name in dict.fromkeys(run.encoder for run in runs):
        weights = {run.results.encoder['identity'] for run in runs if run.encoder == name}
        if len(weights) > 1:
            found.append(f'{name} stands for {len(weights)} different sets of weights.')
    return found


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(_plain(str(cell)) for cell in cells)} |'


def _plain(text: str) -> str:
    return ' '.join(text.replace('|', '/').split())


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'
