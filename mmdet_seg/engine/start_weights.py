"""What a training starts from: its own weights, those of another, or a run's checkpoint."""

from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast
from torch import nn

from mmdet_seg.backbones.left_out import fingerprint
from mmdet_seg.command_line import note
from mmdet_seg.engine.checkpoint import load_folder
from mmdet_seg.engine.checkpoint_folder import CheckpointFolder, is_folder, open_folder
from mmdet_seg.engine.frozen_parameters import frozen_encoders
from mmdet_seg.engine.launch import agreed


def resumed_folder(path: str | None) -> CheckpointFolder:
    """Open the checkpoint that a run continues from; its files are compared once, not per process.

    Raises:
        ValueError: None, or not a complete checkpoint of ours.
    """
    if not path or not is_folder(path):
        raise ValueError(
            f'--resume {path}: not a checkpoint folder of this version (it has no manifest.json); '
            'use its weights with --cfg-options load_from=... instead.'
        )
    return agreed(lambda: open_folder(path))


def start_weights(runner: Any, folder: CheckpointFolder | None, load_from: str | None) -> None:
    """Initialise a runner's model and load what it starts from.

    Args:
        runner: Ours, before its strategy takes the model over.
        folder: What is resumed, if anything is.
        load_from: Weights to start from otherwise.

    Raises:
        ValueError: Weights of another model.
    """
    model = runner.model
    _initialise(model)
    if folder is not None:
        names = {name for name, _ in folder.tensors('model')}
        _load_over(model, lambda: load_folder(model, folder, 'model'), names)
        runner.resumed_from = folder.path
    elif load_from is not None:
        written = _load_over(model, lambda: runner.load_checkpoint(load_from))
        if not is_folder(load_from):  # which has all or is refused
            _say_what_fits(model, written, load_from)


def _initialise(model: nn.Module) -> None:
    """As mmengine's; frozen weights, which each process read itself, are not sent around."""
    model.init_weights()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter):
            broadcast(tensor.data)


def _load_over(
    model: nn.Module, load: Callable[[], Any], names: set[str] | None = None
) -> set[str]:
    """Load weights; names of those that were written.

    A frozen encoder that becomes another one by it cannot be read from its source again, so its
    source is forgotten and checkpoints hold it.

    Args:
        model: Initialised.
        load: Does it.
        names: That it may write; None: unknown.
    """
    versions = _versions(model)
    before = {e: _print_of(e) for e in frozen_encoders(model) if _may_change(model, e, names)}
    load()
    for encoder, known in before.items():
        if _print_of(encoder) != known:
            encoder.load_report = None
    return {name for name, version in _versions(model).items() if version != versions[name]}


def _may_change(model: nn.Module, encoder: nn.Module, names: set[str] | None) -> bool:
    frozen = {id(p) for p in encoder.parameters() if not p.requires_grad}
    return names is None or any(n in names for n, p in model.named_parameters() if id(p) in frozen)


def _versions(model: nn.Module) -> dict[str, int]:
    """Name -> how often a tensor was written to, as PyTorch counts."""
    return {name: tensor._version for name, tensor in model.state_dict().items()}


def _print_of(encoder: nn.Module) -> str:
    frozen = ((n, p) for n, p in encoder.named_parameters() if not p.requires_grad)
    return fingerprint(sorted(frozen))


def _say_what_fits(model: nn.Module, written: set[str], source: str) -> None:
    wanted = [n for n in model.state_dict() if 'num_batches_tracked' not in n]
    anew = [name for name in wanted if name not in written]
    if len(anew) == len(wanted):
        raise ValueError(
            f'load_from={source}: nothing in it has the name and shape of a weight of this model '
            f'(as {wanted[0]}); for the encoder alone, give --weights {source}.'
        )
    if anew:
        note(
            f'{source} gives {len(wanted) - len(anew)} of {len(wanted)} tensors; the others, such '
            f'as {anew[0]}, start anew.'
        )
