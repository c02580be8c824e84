"""Loading trained models: all of a checkpoint or a clear no."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from mmdet_seg.backbones.left_out import fingerprint
from mmdet_seg.command_line import note
from mmdet_seg.compat.torch_load import load_file
from mmdet_seg.engine.checkpoint_folder import CheckpointFolder, is_folder, open_folder
from mmdet_seg.segmentors.authors_names import rename_in_place


def check_exists(path: str | Path) -> None:
    """See that there is something, before anything large is built.

    Raises:
        FileNotFoundError: Nothing there, or a folder that is not a checkpoint.
    """
    path = Path(path)
    if path.is_dir() and not is_folder(path):
        raise FileNotFoundError(
            f'{path} is not a checkpoint: it has no manifest.json; give one of the folders '
            'iter_N or best_..., or a file.'
        )
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such checkpoint.')


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Load a checkpoint of this very model, trained here or by the authors.

    Args:
        model: A segmentor or detector.
        path: A checkpoint folder, a ``.safetensors`` file, or a file with a ``state_dict``
            (``module`` in DeepSpeed's files), or a bare one.

    Returns:
        The checkpoint's ``meta``, empty where it has none.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is broken, its names or shapes are not the model's, or it belongs to
            another frozen encoder.
    """
    check_exists(path)
    if is_folder(path):
        folder = open_folder(path)
        load_folder(model, folder)
        return folder.manifest
    if Path(path).suffix == '.safetensors':
        try:
            state, meta = load_safetensors(path), {}
        except Exception as error:  # the library's own class, and OSError
            raise ValueError(f'{path} is not a safetensors file: {error}.') from error
    else:
        checkpoint = load_file(path)
        if not isinstance(checkpoint, dict):
            raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint.')
        wrapper = next((k for k in ('state_dict', 'module') if k in checkpoint), None)
        state = dict(checkpoint[wrapper] if wrapper else checkpoint)
        meta = checkpoint.get('meta', {}) if wrapper else {}
    rename_in_place(state, model)
    own = model.state_dict()
    _compare(path, own, state, [])
    model.load_state_dict(state)
    return meta


def load_folder(model: nn.Module, folder: CheckpointFolder, stem: str | None = None) -> None:
    """Load the weights of a checkpoint folder.

    A frozen encoder that the folder leaves out is read from where the model's config says, and has
    to be the one that the rest was trained with.

    Args:
        model: A segmentor or detector; its parameters are whole.
        folder: The checkpoint.
        stem: ``model`` for the weights that trained; None prefers their moving average.

    Raises:
        ValueError: Another model, or another encoder.
    """
    own, state = model.state_dict(), dict(folder.tensors('model'))
    if stem is None and folder.has('ema'):
        state.update(folder.tensors('ema'))
    identity = folder.manifest.get('encoder')
    absent = [k for k in own if k not in state and k.startswith('backbone.')]
    left_out = absent if identity is not None else []
    _compare(folder.path, own, state, left_out)
    if identity is not None:
        _check_encoder(model, folder, identity, left_out)
    model.load_state_dict(state, strict=False)


def _check_encoder(
    model: nn.Module, folder: CheckpointFolder, identity: dict[str, Any], left_out: list[str]
) -> None:
    model.backbone.init_weights()  # does nothing where its weights are there
    own = model.state_dict()
    if fingerprint((k, own[k]) for k in sorted(left_out)) != identity['sha256']:
        cfg = getattr(model.backbone, 'encoder', model.backbone).init_cfg
        source = cfg.get('checkpoint') if isinstance(cfg, dict) else None
        raise ValueError(
            f'{folder.path} was trained on the frozen encoder of {identity["source"]} (sha256 '
            f'{identity["sha256"][:12]}), and the config brings {source or "untrained weights"}: '
            'the head would not fit; use the config that lies beside the checkpoint, or set '
            'model.backbone.init_cfg.checkpoint.'
        )


def _compare(
    path: str | Path, own: dict[str, Tensor], state: dict[str, Tensor], without: list[str]
) -> None:
    problems = []
    if missing := [k for k in own if k not in state and k not in without]:
        problems.append(f'lacks {_some(missing)}')
    if surplus := [k for k in state if k not in own]:
        problems.append(f'has {_some(surplus)} that the model has not')
    both = (k for k in own if k in state and hasattr(state[k], 'shape'))
    if other := [k for k in both if state[k].shape != own[k].shape]:
        shapes = f'{tuple(state[other[0]].shape)} instead of {tuple(own[other[0]].shape)}'
        problems.append(f'has another shape for {_some(other)} ({shapes})')
    if problems:
        raise ValueError(
            f'{path} is not a checkpoint of this model: it {", and ".join(problems)}. '
            'Use the config that lies beside it.'
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f'{names[0]} and {len(names) - 1} more'


def iterations(folder: Path, template: str = 'iter_{}') -> list[tuple[int, Path]]:
    """Number and path of every checkpoint that resuming could start from, newest first."""
    start, end = template.split('{}')
    found = []
    for path in folder.glob(f'{start}*{end}'):
        number = path.name[len(start) : len(path.name) - len(end)]
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found, reverse=True)


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is complete; says which ones are not, and why."""
    for _, path in iterations(folder):
        try:
            open_folder(path)
        except ValueError as error:
            note(f'Skipped: {error}')
            continue
        return path
    return None
