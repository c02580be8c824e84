"""mmcv's focal losses.

Shape letters: N samples, C classes. ``weight`` holds one factor per class, or nothing (0,).

Source:
    Focal loss, https://arxiv.org/abs/1708.02002.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_FLOOR = math.log(torch.finfo(torch.float32).tiny)  # the compiled operators' log of 0


@torch.no_grad()
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N, C) from logits (N, C) and labels (N,); label C is the background.

    Logarithms are taken of the logit. The compiled operator takes them of ``1 - p`` in single
    precision, which is 0 for logits from 17 on, and then reports a loss that is too large there;
    gradients agree.
    """
    p, q, log_p, log_q, positive = _sigmoid_terms(input, target)
    loss = torch.where(positive, -alpha * q.pow(gamma) * log_p, (alpha - 1) * p.pow(gamma) * log_q)
    output.copy_(loss * _factor(weight, target)[:, None])


@torch.no_grad()
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of the sum of the loss."""
    p, q, log_p, log_q, positive = _sigmoid_terms(input, target)
    of_positive = -alpha * q.pow(gamma) * (q - gamma * p * log_p)
    of_negative = (alpha - 1) * p.pow(gamma) * (gamma * q * log_q - p)
    grad = torch.where(positive, of_positive, of_negative)
    grad_input.copy_(grad * _factor(weight, target)[:, None])


@torch.no_grad()
def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N,) from probabilities (N, C) and labels (N,); negative labels give 0."""
    p, counted = _of_target(softmax, target)
    loss = -alpha * (1 - p).pow(gamma) * p.log().clamp(min=_LOG_FLOOR)
    output.copy_((loss * _factor(weight, target)).masked_fill(~counted, 0))


@torch.no_grad()
def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` (N, C); ``buff`` (N,) receives the factor common to a row."""
    p, counted = _of_target(softmax, target)
    log_p = p.log().clamp(min=_LOG_FLOOR)
    # d loss / d p, times p: the p of the softmax's own derivative cancels a division by 0
    common = alpha * (gamma * (1 - p).pow(gamma - 1) * p * log_p - (1 - p).pow(gamma))
    buff.copy_((common * _factor(weight, target)).masked_fill(~counted, 0))
    classes = torch.arange(softmax.shape[1], device=softmax.device)
    grad_input.copy_(buff[:, None] * ((target[:, None] == classes).to(softmax) - softmax))


def _sigmoid_terms(input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """p, 1 - p, their logarithms, and where a class is the label; (N, C) each."""
    logits = input.to(torch.promote_types(input.dtype, torch.float32))
    log_p, log_q = (F.logsigmoid(x).clamp(min=_LOG_FLOOR) for x in (logits, -logits))
    classes = torch.arange(input.shape[1], device=input.device)
    return logits.sigmoid(), (-logits).sigmoid(), log_p, log_q, target[:, None] == classes


def _of_target(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the label, and whether there is one; (N,) each."""
    dtype = torch.promote_types(softmax.dtype, torch.float32)
    label = target.clamp(min=0)[:, None]
    return softmax.to(dtype).gather(1, label)[:, 0], target >= 0


def _factor(weight: Tensor, target: Tensor) -> Tensor:
    """Factor of each sample, (N,)."""
    if weight.numel() == 0:
        return torch.ones(len(target), device=target.device)
    return weight[target.clamp(min=0)]
