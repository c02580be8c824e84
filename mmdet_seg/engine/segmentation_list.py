"""The list of (config, checkpoint) pairs that a benchmark evaluates."""

import ast
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FIELDS = ('name', 'arch', 'data', 'published', 'protocol', 'tta')


@dataclass(frozen=True)
class Pair:
    """One evaluation.

    Attributes:
        config: Path or name of a config.
        checkpoint: File of weights.
        name: Of the row; made from the two where it is not given.
        arch: Encoder to put into the config.
        data: Data to put into the config.
        published: mIoU in percent; None takes the config's ``published_miou``.
        protocol: As in test.py.
        tta: Average scales and flips, as in test.py.
        options: Dotted config keys to values.
    """

    config: str
    checkpoint: str
    name: str = ''
    arch: str | None = None
    data: str | None = None
    published: float | None = None
    protocol: str = 'ours'
    tta: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``name``, or config, encoder, data and checkpoint."""
        parts = (Path(self.config).stem, self.arch, self.data, Path(self.checkpoint).stem)
        return self.name or ' '.join(p for p in parts if p)


def read_list(path: str | Path) -> list[Pair]:
    """Read LIST.

    A text file has a pair a line, ``CONFIG CHECKPOINT [KEY=VALUE ...]``, quoted as in a shell, with
    ``#`` comments; KEY is a field of :class:`Pair` or a config entry (``crop_size=(56,56)``). A
    ``.json`` or ``.yaml`` file has a list of mappings with the fields of :class:`Pair`.
    Checkpoints are looked for from here, then beside the list.

    Raises:
        FileNotFoundError: No such list.
        ValueError: Names the line or entry that is not a pair, or titles that two pairs share.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such list; write lines CONFIG CHECKPOINT [KEY=VALUE ...].'
        )
    text = path.read_text()
    if path.suffix in ('.json', '.yaml', '.yml'):
        entries = _structured(path, text)
    else:
        entries = _lines(path, text)
    pairs = []
    for where, entry in entries:
        here, beside = Path(str(entry['checkpoint'])), path.parent / str(entry['checkpoint'])
        entry['checkpoint'] = str(beside if beside.exists() and not here.exists() else here)
        pairs.append(_pair(where, entry))
    if not pairs:
        raise ValueError(f'{path} names no pair; write lines CONFIG CHECKPOINT [KEY=VALUE ...].')
    titles = [pair.title for pair in pairs]
    if twice := sorted({t for t in titles if titles.count(t) > 1}):
        raise ValueError(f'{path}: two pairs are called {twice[0]!r}; tell them apart with name=.')
    return pairs


def _structured(path: Path, text: str) -> list[tuple[str, dict]]:
    try:
        found = json.loads(text) if path.suffix == '.json' else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if not isinstance(found, list):
        raise ValueError(f'{path} holds no list: write [{{config: ..., checkpoint: ...}}, ...].')
    entries = []
    for number, entry in enumerate(found, 1):
        where = f'{path}, entry {number}'
        if not isinstance(entry, dict) or not {'config', 'checkpoint'} <= entry.keys():
            raise ValueError(f'{where}: needs config and checkpoint.')
        if unknown := entry.keys() - Pair.__dataclass_fields__.keys():
            known = ', '.join(Pair.__dataclass_fields__)
            raise ValueError(f'{where}: {sorted(unknown)[0]} is not one of {known}.')
        entries.append((where, dict(entry)))
    return entries


def _lines(path: Path, text: str) -> list[tuple[str, dict]]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f'{path}, line {number}'
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ValueError(f'{where}: {error}.') from error
        if not words:
            continue
        if len(words) < 2 or any('=' not in word for word in words[2:]):
            raise ValueError(f'{where}: {line.strip()!r} is not CONFIG CHECKPOINT [KEY=VALUE ...].')
        entry: dict[str, Any] = dict(config=words[0], checkpoint=words[1], options={})
        for word in words[2:]:
            key, value = word.split('=', 1)
            if key in _FIELDS:
                entry[key] = value if key in ('name', 'arch', 'data', 'protocol') else _value(value)
            else:
                entry['options'][key] = _value(value)
        entries.append((where, entry))
    return entries


def _pair(where: str, entry: dict) -> Pair:
    pair = Pair(**entry)
    if pair.published is not None and not isinstance(pair.published, int | float):
        raise ValueError(f'{where}: published={pair.published} is not a number (mIoU in percent).')
    if not isinstance(pair.tta, bool):
        raise ValueError(f'{where}: tta={pair.tta} is neither true nor false.')
    return pair


def _value(text: str) -> Any:
    words = {'true': True, 'false': False, 'none': None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
