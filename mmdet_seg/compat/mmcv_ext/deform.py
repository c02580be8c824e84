"""mmcv's deformable convolutions on torchvision's.

Shape letters: B images, C and K input and output channels, H x W the map, h x w the output,
G ``deformable_group``, k kernel cells. input (B, C, H, W), weight (K, C / group, kH, kW), offset
(B, G * k * 2, h, w) row then column, mask (B, G * k, h, w), bias (K,), output (B, K, h, w).

mmcv passes the geometry by keyword. ``columns`` and ``ones`` are scratch space of the compiled
kernels.
"""

from collections.abc import Mapping

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from mmdet_seg.compat.mmcv_ext.precision import working_dtype

# The order in which torchvision takes the geometry, in the words of mmcv's two families.
_PLAIN = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
_MODULATED = (
    *('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'),
    *('group', 'deformable_group'),
)

_FAR = 1e6  # pixels: off any map


@torch.no_grad()
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Write the convolution to ``output``."""
    tensors = _arguments(input, weight, offset, None, None)
    numbers = _numbers(geometry, _PLAIN)
    output.copy_(torch.ops.torchvision.deform_conv2d(*tensors, *numbers, False))


@torch.no_grad()
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Write the gradients of input and offset.

    torchvision's backward gives all gradients at once. That of the weight is left in ``columns``,
    which mmcv hands to :func:`deform_conv_backward_parameters` next.
    """
    tensors = _arguments(input, weight, offset, None, None)
    grads = _backward(grad_output, tensors, _numbers(geometry, _PLAIN), use_mask=False)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


@torch.no_grad()
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``grad_weight``."""
    if columns.shape == grad_weight.shape:
        grad_weight.add_(columns, alpha=scale)
        columns.resize_(0)
        return
    # The values of the weight do not enter its own gradient, only its shape does.
    tensors = _arguments(input, grad_weight, offset, None, None)
    grads = _backward(grad_output, tensors, _numbers(geometry, _PLAIN), use_mask=False)
    grad_weight.add_(grads[1], alpha=scale)


@torch.no_grad()
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Write the convolution, each sample weighted by ``mask``, to ``output``."""
    offset, mask = (_as_read(tensor, output) for tensor in (offset, mask))
    tensors = _arguments(input, weight, offset, mask, bias if with_bias else None)
    numbers = _numbers(geometry, _MODULATED)
    output.copy_(torch.ops.torchvision.deform_conv2d(*tensors, *numbers, True))


@torch.no_grad()
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Write the gradients of input, weight, offset, mask and, where there is one, bias."""
    offset, mask = (_as_read(tensor, grad_output) for tensor in (offset, mask))
    tensors = _arguments(input, weight, offset, mask, bias if with_bias else None)
    grads = _backward(grad_output, tensors, _numbers(geometry, _MODULATED), use_mask=True)
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    _as_read(grad_offset, grad_output).copy_(grads[2])
    _as_read(grad_mask, grad_output).copy_(grads[3])
    if with_bias:
        grad_bias.copy_(grads[4])


def _as_read(tensor: Tensor, output: Tensor) -> Tensor:
    """Offsets or mask as the compiled operator reads them, (B, ..., h, w) of ``output``.

    It does not compare sizes: of each image it reads as many values as it needs, from the first on.
    mmdet's DyHead passes a finer level's offsets, and its weights are trained that way.
    """
    if tensor.shape[2:] == output.shape[2:]:
        return tensor
    height, width = output.shape[2:]
    channels = tensor.shape[1]
    values = tensor.flatten(1)[:, : channels * height * width]
    return values.unflatten(1, (channels, height, width))


def _arguments(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """The five tensors that torchvision's kernels take, zeros for what is not there."""
    if mask is None:
        mask = input.new_zeros(input.shape[0], 1)
    if bias is None:
        bias = input.new_zeros(weight.shape[0])
    dtype = working_dtype(input)
    # torchvision reads out of bounds at an offset of nan (a diverged model); mmcv samples 0 there.
    offset = offset.to(dtype).nan_to_num(nan=_FAR).clamp_(-_FAR, _FAR)
    return [t.to(dtype).contiguous() for t in (input, weight, offset, mask, bias)]


def _numbers(geometry: Mapping[str, int], names: tuple[str, ...]) -> list[int]:
    return [geometry[name] for name in names]


def _backward(
    grad_output: Tensor, tensors: list[Tensor], numbers: list[int], use_mask: bool
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    grad = grad_output.to(tensors[0].dtype).contiguous()
    return torch.ops.torchvision._deform_conv2d_backward(grad, *tensors, *numbers, use_mask)
