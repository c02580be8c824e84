"""What a user may name as the source of weights, and where it is."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmdet_seg.backbones.checkpoint_files import SUFFIXES, read_json
from mmdet_seg.backbones.variants import ARCHS

_HUB_ID = re.compile(r'([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?')


def locate_source(source: str | os.PathLike, *, weights: bool = True) -> Path:
    """The file or directory that ``source`` means, downloaded first where it is on a hub.

    Args:
        source: See :func:`open_checkpoint`.
        weights: False where ``config.json`` will do.

    Raises:
        FileNotFoundError: There is no such thing; the message names what is near.
        ValueError: An encoder of the table that has no published weights.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if isinstance(source, str):
        if source in ARCHS:
            if not ARCHS[source].hub_id:
                raise ValueError(
                    f'arch {source!r} has no published weights; give a file, directory or hub id.'
                )
            source = ARCHS[source].hub_id
        match = _HUB_ID.fullmatch(source)
        local = source.endswith(SUFFIXES) and source.count('/') < 2
        if match and not local and source[0] not in '.~' and not Path(path.parts[0]).is_dir():
            from mmdet_seg.backbones.hub import resolve_hub

            return resolve_hub(match[1], match[3], file=match[2].lstrip('/'), weights=weights)
    raise FileNotFoundError(
        f'No file or directory {str(source)!r}{_nearest(path)}; a hub id looks like owner/name.'
    )


def read_config(path: Path) -> dict[str, Any] | None:
    """The ``config.json`` that belongs to a directory or weight file; None where there is none."""
    file = path / 'config.json' if path.is_dir() else path.with_name('config.json')
    return read_json(file) if file.is_file() and (path.is_dir() or _is_shard(path)) else None


def _is_shard(path: Path) -> bool:
    """Whether a file was named that belongs to the ``config.json`` beside it."""
    return path.name in ('model.safetensors', 'pytorch_model.bin')


def _nearest(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    try:
        names = [p.name for p in folder.iterdir()]
    except OSError:
        return ''
    close = get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f'; nearest: {", ".join(str(folder / name) for name in close)}' if close else ''
