"""Frozen parameters out of everybody's way while a model trains.

DDP broadcasts them, ZeRO-3 and FSDP shard and gather them at every step, checkpoints and moving
averages carry them. As buffers they stay where they are, and the layers cannot tell the difference.
"""

from collections.abc import Iterator

from torch import Tensor, nn

_KEY = '_was_parameter'  # name -> whether a checkpoint has to hold it


def hide_frozen(model: nn.Module) -> None:
    """Turn every parameter without gradient into a buffer.

    What a frozen encoder read from a checkpoint (its ``load_report``) can be read from it again and
    is left out of ``state_dict``; the rest stays in it.
    """
    recoverable = {id(p) for encoder in frozen_encoders(model) for p in encoder.parameters()}
    for module in model.modules():
        hidden = {}
        for name, parameter in list(module._parameters.items()):
            if parameter is None or parameter.requires_grad:
                continue
            del module._parameters[name]
            hidden[name] = id(parameter) not in recoverable
            module.register_buffer(name, parameter.data, persistent=hidden[name])
        if hidden:
            setattr(module, _KEY, hidden)


def show_frozen(model: nn.Module) -> None:
    """Undo :func:`hide_frozen`."""
    for module in model.modules():
        for name in getattr(module, _KEY, ()):
            tensor = module._buffers.pop(name)
            module._non_persistent_buffers_set.discard(name)
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        if hasattr(module, _KEY):
            delattr(module, _KEY)


def left_out(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every hidden tensor that ``state_dict`` does not hold."""
    for prefix, module in model.named_modules():
        for name, kept in getattr(module, _KEY, {}).items():
            if not kept:
                yield f'{prefix}.{name}' if prefix else name, module._buffers[name]


def frozen_by_name(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and size of every hidden tensor."""
    for prefix, module in model.named_modules():
        for name in getattr(module, _KEY, ()):
            yield f'{prefix}.{name}' if prefix else name, module._buffers[name].numel()


def frozen_encoders(model: nn.Module) -> Iterator[nn.Module]:
    """Encoders that read a checkpoint and are frozen, in part at least.

    An encoder that trains has parameters without gradient as well, behind its last tap. They stay
    in its checkpoint, which then does not depend on where the training started from.
    """
    for module in model.modules():
        if getattr(module, 'load_report', None) is None:
            continue
        if any(not p.requires_grad for p in module.blocks[0].parameters()):
            yield module
