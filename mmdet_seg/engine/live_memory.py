"""Counts what tensors take while they come and go, on any device and on fake tensors."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

KINDS = ('activations', 'logits', 'cast weights', 'gradients')
ACTIVATIONS, LOGITS, CASTS, GRADIENTS = range(len(KINDS))


class Alive(TorchDispatchMode):
    """Counts the storages that operators have made and that are still there.

    Args:
        logits: (C, H, W) of the logits at the images' size.

    Attributes:
        history: Bytes of every kind after every operator that changed them.
    """

    def __init__(self, logits: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._logits = logits
        self._known: dict[int, tuple[Any, int]] = {}
        self._kind: dict[int, int] = {}
        self._weights: set[int] = set()
        self._live = [0] * len(KINDS)
        self.history: list[tuple[int, ...]] = [(0,) * len(KINDS)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and self._is_weight(args[0])
        self.watch(out, cast)
        return out

    def watch(self, tensors: Any, cast: bool = False) -> None:
        """Count tensors that are there from now on."""
        for tensor in tree_iter(tensors):
            if isinstance(tensor, Tensor):
                self._add(tensor, cast)
        self._note()

    def weights(self, model: nn.Module) -> None:
        """Leave out what a model holds; copies of it in another precision count."""
        tensors = (*model.parameters(), *model.buffers())
        self._weights |= {t.untyped_storage()._cdata for t in tensors}

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._weights

    def _note(self) -> None:
        # Operators on single labels, whose number depends on the batch, change nothing.
        if tuple(self._live) != self.history[-1]:
            self.history.append(tuple(self._live))

    def _add(self, tensor: Tensor, cast: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._weights:
            return
        kind = CASTS if cast else ACTIVATIONS
        if tuple(tensor.shape[1:]) == self._logits and tensor.is_floating_point():
            kind = LOGITS
        self._known[key] = (weakref.ref(storage, lambda _: self._gone(key)), size)
        self._kind[key] = kind
        self._live[kind] += size

    def _gone(self, key: int) -> None:
        _, size = self._known.pop(key)
        self._live[self._kind.pop(key)] -= size

    @contextmanager
    def gradients_of(self, model: nn.Module) -> Iterator[None]:
        """Tell weights' gradients from the rest as they arrive."""
        handles = [
            p.register_post_accumulate_grad_hook(self._arrived)
            for p in model.parameters()
            if p.requires_grad
        ]
        yield
        for handle in handles:
            handle.remove()

    def _arrived(self, parameter: nn.Parameter) -> None:
        key = parameter.grad.untyped_storage()._cdata
        if key in self._known:
            size = self._known[key][1]
            self._live[self._kind[key]] -= size
            self._live[GRADIENTS] += size
            self._kind[key] = GRADIENTS
            self._note()
