"""mmcv's multi-scale deformable attention on :func:`mmdet_seg.ops.ms_deform_attn`.

Shapes as there: value (B, N, heads, dim), locations (B, Q, heads, levels, points, 2), weights
(B, Q, heads, levels, points), result (B, Q, heads * dim). ``im2col_step`` only bounds the memory of
the compiled kernel.
"""

import torch
from torch import Tensor

from mmdet_seg.ops import ms_deform_attn


@torch.no_grad()
def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The attended values (B, Q, heads * dim)."""
    return ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of value, locations and weights."""
    inputs = (value, sampling_locations, attention_weights)
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = ms_deform_attn(inputs[0], spatial_shapes, *inputs[1:])
    grads = torch.autograd.grad(out, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
