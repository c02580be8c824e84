"""Loading trained models: all of a checkpoint or a clear no."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from mmdet_seg.compat.torch_load import load_file
from mmdet_seg.segmentors.authors_names import rename_in_place


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Load a checkpoint of this very model, trained here or by the authors.

    Args:
        model: A segmentor or detector.
        path: File with a ``state_dict`` (``module`` in DeepSpeed's files), or a bare one.

    Returns:
        The checkpoint's ``meta``, empty where it has none.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is broken, or its names or shapes are not the model's.
    """
    checkpoint = load_file(path)
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint.')
    wrapper = next((k for k in ('state_dict', 'module') if k in checkpoint), None)
    state = dict(checkpoint[wrapper] if wrapper else checkpoint)
    rename_in_place(state)
    own = model.state_dict()
    problems = []
    if missing := [k for k in own if k not in state]:
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
    model.load_state_dict(state)
    return checkpoint.get('meta', {}) if wrapper else {}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f'{names[0]} and {len(names) - 1} more'


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that a run left in its folder, None where there is none."""
    pointer = folder / 'last_checkpoint'
    if pointer.is_file():
        named = folder / Path(pointer.read_text().strip()).name  # the folder may have been moved
        if named.is_file():
            return named
    found = [p for p in folder.glob('iter_*.pth') if p.stem[5:].isdigit()]
    return max(found, key=lambda p: int(p.stem[5:]), default=None)
