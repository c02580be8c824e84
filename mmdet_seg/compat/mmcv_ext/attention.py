"""mmcv's multi-scale deformable attention on :func:`mmdet_seg.ops.ms_deform_attn`.

Shapes as there: value (B, N, heads, dim), locations (B, Q, heads, levels, points, 2), weights
(B, Q, heads, levels, points), result (B, Q, heads * dim). ``im2col_step`` only bounds the memory of
the compiled kernel.
"""

from functools import wraps
from types import ModuleType

import torch
from torch import Tensor

from mmdet_seg.ops import ms_deform_attn


def patch(module: ModuleType) -> None:
    """Let ``MultiScaleDeformableAttention`` of mmcv 2.1.0 call ours.

    Args:
        module: ``mmcv.ops.multi_scale_deform_attn``. Its PyTorch fallback, which is what runs on
            CPU, stays there as ``multi_scale_deformable_attn_pytorch.__wrapped__``. What it calls
            on CUDA is replaced where the stand-in is behind it: it rounds locations to the dtype of
            the value, pixels off in bfloat16. A compiled operator is left alone.
    """
    fallback = module.multi_scale_deformable_attn_pytorch
    if hasattr(fallback, '__wrapped__'):
        return

    @wraps(fallback)
    def multi_scale_deformable_attn_pytorch(
        value: Tensor,
        value_spatial_shapes: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        return ms_deform_attn(value, value_spatial_shapes, sampling_locations, attention_weights)

    module.multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn_pytorch
    if getattr(module.ext_module, '__file__', None) is None:  # a stand-in is no file
        module.MultiScaleDeformableAttnFunction = MultiScaleDeformableAttnFunction


class MultiScaleDeformableAttnFunction:
    """What mmcv's autograd function of this name computes, with locations as they are."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """The attended values (B, Q, heads * dim)."""
        return ms_deform_attn(value, value_spatial_shapes, sampling_locations, attention_weights)


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
