"""``fsdp``: PyTorch's own sharding (``fully_shard``), block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmdet_seg.engine.strategies.base import BuildOptim, Strategy


class FullyShard(Strategy):
    """Weights, gradients and optimizer states in parts; each block is gathered when it runs."""

    needs_group = True
    sharded = True

    def _wrap(self, model: nn.Module, build_optim: BuildOptim) -> tuple[nn.Module, Any]:
        mesh = init_device_mesh(get_device(), (dist.get_world_size(),))
        for block in getattr(getattr(model, 'backbone', None), 'blocks', ()):
            if any(p.requires_grad for p in block.parameters()):
                fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.to(get_device())  # the shards are there already
        optim_wrapper = build_optim(model)
        _synchronise_with(optim_wrapper, model)
        return model, optim_wrapper

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # the outermost one stays whole after a forward pass
        return super().trained

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().full_tensor()

    @torch.no_grad()
    def set_whole(self, parameter: nn.Parameter, value: Tensor) -> None:
        parameter.copy_(self._placed(parameter, value))

    def local(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().to_local()

    def whole_of_local(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        spread = DTensor.from_local(
            part,
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        return spread.full_tensor()

    def part_of_whole(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        return self._placed(parameter, value).to_local()

    def whole_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        state = super().whole_state(parameter, key)
        return state.full_tensor()

    def _placed(self, parameter: nn.Parameter, value: Tensor) -> DTensor:
        value = value.to(parameter.device, parameter.dtype).contiguous()
        # Every process has the whole value: nothing has to travel.
        return distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        ).clone()


def _synchronise_with(optim_wrapper: Any, model: nn.Module) -> None:
    """Reduce gradients only in the last step of an accumulation, as ``no_sync`` does for DDP."""
    original = optim_wrapper.optim_context

    @contextmanager
    def optim_context(inner: nn.Module) -> Iterator[None]:
        model.set_requires_gradient_sync(optim_wrapper.should_sync())
        with original(inner):
            yield

    optim_wrapper.optim_context = optim_context
