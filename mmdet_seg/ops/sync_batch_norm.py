"""Batch norm over the batches of all processes, on any device.

PyTorch's ``SyncBatchNorm`` raises an error on the CPU. Shapes: B batch, C channels, ... the rest.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What ``torch.nn.SyncBatchNorm`` computes, from two sums over the processes.

    Not derived from PyTorch's class, which DistributedDataParallel refuses on the CPU.

    Shapes::

        x  (B, C, ...) -> (B, C, ...)
    """

    process_group: Any = None

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on, as PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        use_batch = self.training or self.running_mean is None
        if use_batch and dist.is_initialized() and dist.get_world_size(self.process_group) > 1:
            return self._over_processes(x)
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            None if use_batch and not self.track_running_stats else self.running_mean,
            None if use_batch and not self.track_running_stats else self.running_var,
            self.weight,
            self.bias,
            use_batch,
            self._factor(),
            self.eps,
        )

    def _factor(self) -> float:
        if self.momentum is not None:
            return self.momentum
        return 1.0 / max(float(self.num_batches_tracked), 1.0)  # a plain average

    def _over_processes(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        # The mean first, then the squares around it: sums of squares alone cancel in float32.
        total = _Sum.apply(torch.cat([values.sum(axes), count]), self.process_group)
        mean, num = total[:-1] / total[-1].detach(), total[-1].detach()
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes), self.process_group) / num
        if self.training and self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                factor = self._factor()
                self.running_mean.lerp_(mean.to(self.running_mean), factor)
                unbiased = variance * num / (num - 1).clamp_min(1)
                self.running_var.lerp_(unbiased.to(self.running_var), factor)
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.group), None


def sync_on_cpu(model: nn.Module) -> nn.Module:
    """Make PyTorch's ``SyncBatchNorm`` layers run on the CPU, in place."""
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = SyncBatchNorm
    return model
