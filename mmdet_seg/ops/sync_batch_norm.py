"""Batch norm over the batches of all processes, on any device.

PyTorch's ``SyncBatchNorm`` raises an error on the CPU. Shapes: B batch, C channels, ... the rest.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules._functions import SyncBatchNorm as CudaSyncBatchNorm


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What ``torch.nn.SyncBatchNorm`` computes, in as much memory.

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
        if x.is_cuda:  # PyTorch's kernels; they exist for CUDA only
            if self.training and self.track_running_stats:
                self.num_batches_tracked.add_(1)
            group = self.process_group or dist.group.WORLD
            return CudaSyncBatchNorm.apply(
                x.contiguous(),
                self.weight,
                self.bias,
                self.running_mean if self.training else None,
                self.running_var if self.training else None,
                self.eps,
                self._factor(),
                group,
                dist.get_world_size(group),
            )
        mean, variance, count = _statistics(x.detach(), self.process_group)
        if self.training and self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                factor = self._factor()
                self.running_mean.lerp_(mean.to(self.running_mean), factor)
                unbiased = variance * count / (count - 1).clamp_min(1)
                self.running_var.lerp_(unbiased.to(self.running_var), factor)
        return _Normalise.apply(
            x, self.weight, self.bias, mean, variance, count, self.eps, self.process_group
        )


def _statistics(x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance ``(C,)`` over all processes, and of how many values, in one exchange."""
    axes = [0, *range(2, x.ndim)]
    values = x.to(_exact(x.dtype), copy=True)
    count = values.new_tensor([values.numel() // values.shape[1]])
    own = values.sum(axes) / count.clamp_min(1)
    # Squares around the own mean: sums of squares alone cancel in float32.
    squares = values.sub_(own.view([1, -1] + [1] * (x.ndim - 2))).square_().sum(axes)
    parts = [torch.empty_like(torch.cat([own, squares, count])) for _ in range(_world(group))]
    dist.all_gather(parts, torch.cat([own, squares, count]), group=group)
    means, squares, counts = torch.stack(parts).tensor_split([len(own), 2 * len(own)], dim=1)
    total = counts.sum(0)
    mean = (means * counts).sum(0) / total
    # Chan et al., Updating formulae for computing sample variances, 1979.
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    return mean, variance, total


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _world(group: Any) -> int:
    return dist.get_world_size(group)


class _Normalise(torch.autograd.Function):
    """Normalise with the statistics of all processes, which depend on ``x`` too.

    Kept for the backward pass are ``x`` and vectors, as PyTorch's batch norm does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        group: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.group = group
        weight, bias = (None if p is None else p.to(mean) for p in (weight, bias))
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        of_product, of_grad = _sums(grad, x, mean, inverse)
        own = [
            total.to(weight) if weight is not None and needed else None
            for total, needed in zip((of_product, of_grad), ctx.needs_input_grad[1:3], strict=True)
        ]
        if not ctx.needs_input_grad[0]:
            return None, *own, None, None, None, None, None
        sums = torch.stack([of_product, of_grad])
        dist.all_reduce(sums, group=ctx.group)
        of_product, of_grad = sums / count
        scale = inverse if weight is None else inverse * weight.to(mean)
        shape = [1, -1] + [1] * (x.ndim - 2)
        # scale * (grad - of_grad - normalised * of_product), in one copy of the map.
        out = x.to(mean.dtype, copy=True).sub_(mean.view(shape))
        out.mul_((-inverse * of_product).view(shape)).sub_(of_grad.view(shape))
        out.add_(grad).mul_(scale.view(shape))
        return out.to(x.dtype), *own, None, None, None, None, None


def _sums(grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Of the gradient times the normalised values, and of the gradient, per channel ``(C,)``."""
    if not x.numel():  # the kernel divides by the number of values
        return torch.zeros_like(mean), torch.zeros_like(mean)
    _, of_product, of_grad = torch.ops.aten.native_batch_norm_backward(
        grad.contiguous(),
        x.contiguous(),
        torch.ones_like(mean),
        None,
        None,
        mean,
        inverse,
        True,
        0.0,  # only the inverse is used
        [False, True, True],
    )
    return of_product, of_grad


def sync_on_cpu(model: nn.Module) -> nn.Module:
    """Make PyTorch's ``SyncBatchNorm`` layers run on the CPU, in place."""
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = SyncBatchNorm
    return model
