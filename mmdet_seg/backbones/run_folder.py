"""The checkpoint folder of a run as weight files: ``manifest.json`` says which files count.

What trained lies in ``model``, its moving average in ``ema`` and is preferred. Optimizer states and
``training.pth`` are no weights. :mod:`mmdet_seg.engine.checkpoint_folder` writes these folders and
compares their hashes; here sizes are compared, because a second reading of all bytes would double
the time that an encoder takes to load.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mmdet_seg.backbones.checkpoint_files import SUFFIXES, WeightFiles

MANIFEST = 'manifest.json'
FORMAT = 'mmdet_seg checkpoint'
BACKBONE = 'backbone.'  # what stands before the encoder's names in a whole model
_ADAPTED = 'backbone.encoder.'  # where a ViT-Adapter is the backbone; it has a `level_embed`
_WEIGHTS = tuple(re.compile(rf'{s}(-\d{{5}}-of-\d{{5}})?\.safetensors') for s in ('model', 'ema'))


def is_run_folder(path: Path) -> bool:
    """Whether this is a checkpoint of a run, complete or not.

    Raises:
        ValueError: It is damaged, or the folder of a run that holds several.
    """
    file = path / MANIFEST
    if path.is_dir() and not file.exists():
        names = {p.suffix for p in path.iterdir() if p.is_file()}
        several = sorted(p.parent for p in path.glob(f'*/{MANIFEST}'))
        if several and not names & set(SUFFIXES):
            raise ValueError(f'{path} holds several checkpoints; name one, such as {several[0]}.')
    if not file.is_file():
        return False
    try:
        return json.loads(file.read_text(encoding='utf-8')).get('format') == FORMAT
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(
            f'{path} is not a complete checkpoint: {MANIFEST} cannot be read.'
        ) from error


class RunFiles(WeightFiles):
    """The weights of a run's checkpoint, without what it leaves out of a frozen encoder.

    Args:
        path: The folder.

    Attributes:
        manifest: Its manifest.
        identity: Which frozen encoder is left out in whole or in part; None where nothing is.

    Raises:
        ValueError: A file is missing or was changed, or the manifest is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding='utf-8'))
        if self.manifest.get('version') != 1:
            raise ValueError(f'{path} was written by a later version of mmdet_seg; update it.')
        self.identity: dict[str, Any] | None = self.manifest.get('encoder')
        self._files = {}
        self.owner = {}
        listed = self.manifest.get('files')
        if not isinstance(listed, dict):
            raise ValueError(f'{path} is not a complete checkpoint: {MANIFEST} names no files.')
        for pattern in _WEIGHTS:  # a moving average takes the place of what it is the average of
            for name in sorted(filter(pattern.fullmatch, listed)):
                self._check_size(path / name, listed[name])
                self.owner |= dict.fromkeys(self.file(path / name).keys, path / name)

    @property
    def encoder_source(self) -> str:
        """Where the encoder that is left out came from.

        Raises:
            ValueError: The run did not know.
        """
        source = (self.identity or {}).get('source')
        if not source:
            raise ValueError(
                f'{self.path} leaves its frozen encoder out and does not say where it came from; '
                'give the weights of the encoder themselves.'
            )
        return source

    @property
    def prefix(self) -> str:
        """What stands before the encoder's names, with the dot."""
        return _ADAPTED if f'{BACKBONE}level_embed' in self.owner else BACKBONE

    @property
    def has_encoder(self) -> bool:
        """Whether there is any part of the encoder in it: adapters, or blocks that trained."""
        return any(key.startswith(f'{self.prefix}blocks.') for key in self.owner)

    def add(self, file: Any) -> None:
        """Let another file, or what behaves as a :class:`TensorFile`, give the keys it has."""
        self._files[file.path] = file
        self.owner |= dict.fromkeys(file.keys, file.path)

    def sizes(self) -> dict[str, int]:
        """``img_size`` and ``patch_size`` that the run's config gives its encoder, where it does.

        And ``num_prefix_tokens`` where an adapter has taken the class token out. The config is
        read, not run.
        """
        name = self.manifest.get('config')
        try:
            tree = ast.parse((self.path.parent / str(name)).read_text(encoding='utf-8'))
        except (OSError, ValueError, SyntaxError):
            return {}
        model = next((_assigned(n) for n in tree.body if _assigned(n) is not None), None)
        backbone = _entries(_entries(model).get('backbone'))
        adapted = 'encoder' in backbone
        entries = _entries(backbone['encoder']) if adapted else backbone
        found = {k: v.value for k, v in entries.items() if isinstance(v, ast.Constant)}
        sizes = {k: found[k] for k in ('img_size', 'patch_size') if isinstance(found.get(k), int)}
        kept = getattr(backbone.get('class_token'), 'value', False)
        return sizes | ({'num_prefix_tokens': 0} if adapted and not kept else {})

    def _check_size(self, file: Path, expected: dict[str, Any]) -> None:
        size = file.stat().st_size if file.is_file() else None
        if size != expected.get('bytes'):
            what = 'is missing' if size is None else f'has {size} bytes, not {expected["bytes"]}'
            raise ValueError(f'{self.path} is not a complete checkpoint: {file.name} {what}.')


def _assigned(node: ast.stmt) -> ast.expr | None:
    """The value of ``model = ...``."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.value if node.targets[0].id == 'model' else None
    return None


def _entries(node: ast.expr | None) -> dict[str, ast.expr]:
    """Entries of ``dict(a=...)`` or ``{'a': ...}``."""
    if isinstance(node, ast.Call):
        return {k.arg: k.value for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {k.value: v for k, v in pairs if isinstance(k, ast.Constant)}
    return {}
