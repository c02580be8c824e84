"""What a run of a probe leaves: ``results.json``, which reports and tables are made from."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FILE_NAME = 'results.json'
SCHEMA = 1
TASKS = ('segment', 'classify', 'retrieve')
_ENCODER = {'name': str, 'identity': str, 'embed_dim': int, 'depth': int, 'patch_size': int}
_DATA = {'name': str, 'num_train': int, 'num_val': int, 'classes': list}
_ROW = {'name': str, 'layers': list, 'metric': str}


@dataclass
class Results:
    """Everything that a run found, in words and numbers.

    Attributes:
        task: One of :data:`TASKS`.
        encoder: ``name identity embed_dim depth patch_size num_parameters dtype quantization``.
        data: ``name root num_train num_val classes``.
        protocol: Name of the recipe.
        rows: One per probe: ``name`` (unique), ``layers`` (from 0), ``combine``, ``norm``, ``lr``,
            ``weight_decay``, ``seed``, any further settings, ``metric``, ``score`` in percent (None
            where the probe failed), ``scores`` {metric: percent}, ``per_class`` {class: percent}.
        curves: Row name to ``loss`` and ``score``, each a list of [step, value].
        cost: ``seconds encoder_seconds peak_memory_bytes disk_bytes images_per_second`` and others.
        notes: What a reader must know to compare, a sentence each.
        machine: ``cpu cores device torch``.
        command: As typed, one word an entry.
        date: ISO 8601.
        pictures: ``title``, ``file`` (a PNG beside results.json) and, where known, ``kind`` (pca,
            attention, best, worst), ``group`` (what is shown side by side), ``layer``, ``score``.
        published: ``name score source`` of others' figures, with ``per_class`` where known.
    """

    task: str
    encoder: dict[str, Any]
    data: dict[str, Any]
    protocol: str
    rows: list[dict[str, Any]]
    curves: dict[str, dict[str, list]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    date: str = ''
    pictures: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)

    def best(self) -> dict[str, Any]:
        """The row with the highest score; of equals, the first.

        Raises:
            ValueError: No row has a score.
        """
        known = [row for row in self.rows if has_score(row)]
        if not known:
            raise ValueError('No row has a score: every probe failed, or the run has not got far.')
        return max(known, key=lambda row: row['score'])

    def write(self, folder: str | Path) -> Path:
        """Write ``results.json`` whole or not at all; numbers that are not finite become null.

        Raises:
            ValueError: What is written could not be read again.
        """
        content = _finite({'schema': SCHEMA, **asdict(self)})
        _check(content, 'results')
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f'.{FILE_NAME}.{os.getpid()}.part'
        aside.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8')
        aside.replace(folder / FILE_NAME)
        return folder / FILE_NAME

    @classmethod
    def read(cls, path: str | Path) -> 'Results':
        """Results of a run.

        Args:
            path: The file, or the run's folder.

        Raises:
            FileNotFoundError: Nothing there.
            ValueError: Broken, or not what a probe writes.
        """
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f'{path}: no such file; give the folder of a run of tools/probe.py.'
            )
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{path} is not JSON that can be read: {error}') from error
        _check(content, str(path))
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


def nearest_published(
    published: Iterable[dict[str, Any]], score: float, count: int
) -> list[dict[str, Any]]:
    """Others' figures that are nearest to a score, highest first: what fits into a picture."""
    nearest = sorted(published, key=lambda other: abs(other['score'] - score))[:count]
    return sorted(nearest, key=lambda other: -other['score'])


def has_score(row: dict[str, Any]) -> bool:
    """Whether a row has a score: None and NaN say that the probe failed."""
    return row.get('score') is not None and math.isfinite(row['score'])


def _check(content: Any, where: str) -> None:
    """Refuse what reports could not be made from, naming the entry."""
    if not isinstance(content, dict) or 'rows' not in content or 'task' not in content:
        raise ValueError(f'{where} is not what a probe writes: it has no rows or no task.')
    if content.get('schema', SCHEMA) != SCHEMA:
        raise ValueError(
            f'{where} has schema {content["schema"]}, this version reads {SCHEMA}; '
            'run the probe again or take the version that wrote it.'
        )
    if content['task'] not in TASKS:
        raise ValueError(f'{where}: task {content["task"]!r} is none of {", ".join(TASKS)}.')
    _check_entries(content.get('encoder'), _ENCODER, f'{where}: encoder')
    _check_entries(content.get('data'), _DATA, f'{where}: data')
    if not isinstance(content.get('protocol'), str):
        raise ValueError(f'{where}: protocol {content.get("protocol")!r} is not a str.')
    for key, kind in (('rows', list), ('pictures', list), ('published', list), ('curves', dict)):
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(f'{where}: {key} is not a {kind.__name__}.')
    for i, row in enumerate(content['rows']):
        _check_row(row, f'{where}: rows[{i}]')
    names = [row['name'] for row in content['rows']]
    if twice := _first_twice(names):
        raise ValueError(f'{where}: two rows have the name {twice!r}; names are unique.')
    for picture in content.get('pictures', ()):
        _check_entries(picture, {'title': str, 'file': str}, f'{where}: a picture')
    for other in content.get('published', ()):
        _check_entries(other, {'name': str, 'score': (int, float)}, f'{where}: a published row')
    if lost := sorted(set(content.get('curves', ())) - set(names)):
        raise ValueError(f'{where}: curves of {lost[0]!r}, which is no row.')


def _check_row(row: Any, where: str) -> None:
    _check_entries(row, _ROW, where)
    if not all(isinstance(layer, int) and layer >= 0 for layer in row['layers']):
        raise ValueError(f'{where}: layers {row["layers"]} are not numbers from 0.')
    score = row.get('score')
    if score is not None and not (isinstance(score, int | float) and -1e-9 <= score <= 100 + 1e-6):
        raise ValueError(f'{where}: score {score!r} is not a figure in percent, 0 to 100.')


def _check_entries(found: Any, wanted: dict[str, Any], where: str) -> None:
    if not isinstance(found, dict):
        raise ValueError(f'{where} is {type(found).__name__}, not a dict of named entries.')
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind):
            name = getattr(kind, '__name__', 'number')
            raise ValueError(f'{where}: {key} is {found.get(key)!r}, not a {name}.')


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _finite(value: Any) -> Any:
    """What JSON has: null for NaN and infinity, lists, text for paths, plain numbers."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str | bool | int | float) and hasattr(value, 'item'):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
