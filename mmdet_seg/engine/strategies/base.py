"""What a strategy has to be able to do, and the one for a single process.

A strategy says where weights, gradients and optimizer states live. Everything else, from the
precision to what a checkpoint holds, does not depend on it: checkpoints are written from whole
tensors, by parameter name, so that any strategy continues what another began.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdet_seg.engine.frozen_parameters import hide_frozen

BuildOptim = Callable[[nn.Module], OptimWrapper]


class Strategy:
    """One process: weights, gradients and states are plain tensors.

    Attributes:
        needs_group: Whether a process group has to be there even for one process.
        sharded: Whether a process holds a part of each weight only.
        model: The bare model, after :meth:`prepare`.
        optim_wrapper: After :meth:`prepare`.
    """

    needs_group = False
    sharded = False
    model: nn.Module
    optim_wrapper: Any

    def prepare(self, model: nn.Module, build_optim: BuildOptim) -> tuple[nn.Module, Any]:
        """Take over a model that has its weights.

        It comes in the host's memory, and only what this process keeps of it has to fit its
        accelerator: shards are made one weight or block at a time.

        Args:
            model: On the CPU, in the dtype that it trains in.
            build_optim: Makes the optimizer wrapper that the config describes.

        Returns:
            What ``train_step`` and ``val_step`` are called on, and the optimizer wrapper.
        """
        self.model = model
        hide_frozen(model)
        wrapped, self.optim_wrapper = self._wrap(model, build_optim)
        return wrapped, self.optim_wrapper

    def _wrap(self, model: nn.Module, build_optim: BuildOptim) -> tuple[nn.Module, Any]:
        model.to(get_device())
        return model, build_optim(model)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, in the model's order; what is frozen is no parameter any more."""
        return dict(self.model.named_parameters())

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Of the whole parameter."""
        return tuple(parameter.shape)

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter. All processes call this together, in one order."""
        return parameter.detach()

    @torch.no_grad()
    def set_whole(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Give a parameter a value that every process has."""
        parameter.copy_(value)

    def local(self, parameter: nn.Parameter) -> Tensor:
        """The part of a parameter that this process keeps; a moving average follows it."""
        return parameter.detach()

    def set_local(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Put a part back that :meth:`local` has the shape of."""
        self.local(parameter).copy_(value)

    def whole_of_local(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """A tensor beside a parameter, such as its moving average, from the processes' parts."""
        return part

    def part_of_whole(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """Inverse of :meth:`whole_of_local`."""
        return value

    def state_keys(self) -> list[str]:
        """Names of the optimizer's tensors that have the shape of a parameter."""
        return self._keys(lambda state, p: torch.is_tensor(state) and state.shape == p.shape)

    def scalar_keys(self) -> list[str]:
        """Names of what the optimizer keeps once per parameter, such as ``step``."""
        return self._keys(lambda state, p: not torch.is_tensor(state) or state.ndim == 0)

    def _keys(self, wanted: Callable[[Any, nn.Parameter], bool]) -> list[str]:
        found = {}
        for parameter, state in self._optimizer.state.items():
            found |= {k: None for k, v in state.items() if wanted(v, parameter)}
        return list(found)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optim_wrapper.optimizer

    def whole_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        """One of the optimizer's tensors. All processes call this together, in one order."""
        state = self._optimizer.state.get(parameter, {})
        return state[key] if key in state else torch.zeros_like(parameter)

    def scalar(self, parameter: nn.Parameter, key: str) -> float:
        """One of the optimizer's numbers."""
        value = self._optimizer.state.get(parameter, {}).get(key, 0.0)
        return float(value)

    def load_states(
        self, tensors: Callable[[str, str], Tensor], keys: list[str], scalars: dict[str, dict]
    ) -> None:
        """Fill the optimizer.

        Args:
            tensors: (parameter's name, key) -> whole tensor.
            keys: Of the tensors.
            scalars: Key -> parameter's name -> number.
        """
        for name, parameter in self.trained.items():
            state = self._optimizer.state[parameter]
            for key in keys:
                state[key] = self._placed(parameter, tensors(name, key))
            for key, values in scalars.items():
                state[key] = self._scalar_tensor(parameter, values[name])

    def _placed(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        # clone: a value from a memory-mapped file must not stay tied to it.
        return value.to(parameter.device, parameter.dtype).clone()

    def _scalar_tensor(self, parameter: nn.Parameter, value: float) -> Tensor:
        settings = self._optimizer.defaults
        on_device = settings.get('fused') or settings.get('capturable')
        device = parameter.device if on_device else 'cpu'
        return torch.tensor(value, dtype=torch.float32, device=device)

    def grouped(self) -> Iterator[dict[str, Any]]:
        """The optimizer's groups without their parameters: rates, decays, scales."""
        for group in self._optimizer.param_groups:
            yield {k: v for k, v in group.items() if k != 'params'}

    def load_groups(self, groups: list[dict[str, Any]]) -> None:
        """Set what :meth:`grouped` gave.

        Raises:
            ValueError: Another number of groups.
        """
        own = self._optimizer.param_groups
        if len(own) != len(groups):
            raise ValueError(
                f'The checkpoint has {len(groups)} groups of parameters, this config makes '
                f'{len(own)}: resume with the config of the run (it lies in its folder).'
            )
        for group, saved in zip(own, groups, strict=True):
            group.update({k: v for k, v in saved.items() if k in group or k == 'initial_lr'})
