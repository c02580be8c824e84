"""mmcv's synchronised batch norm (MMSyncBN), the part of one process.

Shape letters: B samples, C channels, N places. Maps are (B, C, N), statistics (C,) in float32.
Between the steps mmcv averages over the processes.
"""

import torch
from torch import Tensor


@torch.no_grad()
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel."""
    mean.copy_(input.float().mean((0, 2)))


@torch.no_grad()
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean square distance of each channel from ``mean``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


@torch.no_grad()
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Write ``norm``, ``std`` and ``output``; move the running statistics by ``momentum``."""
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is None or running_var is None:
        return
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * count / (count - 1) if count > 1 else var
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(unbiased, momentum)


@torch.no_grad()
def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Write the gradients of weight and bias."""
    grad_weight.copy_((grad_output * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


@torch.no_grad()
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient of the map."""
    count = grad_output.shape[0] * grad_output.shape[2]
    common = (norm * grad_weight[:, None] + grad_bias[:, None]) / count
    grad_input.copy_((grad_output - common) * (weight / std)[:, None])
