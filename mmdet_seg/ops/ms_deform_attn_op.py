"""The registered operator behind :func:`mmdet_seg.ops.ms_deform_attn`, with its gradient.

A registered operator is one node for ``torch.compile``, has a shape on fake tensors and takes its
sizes as a tensor, which a graph need not look into. ``torch.library.custom_op`` would import
TorchDynamo at the first call, a second and a half; the functions below do not.
"""

import importlib.util
import os
from functools import lru_cache
from types import ModuleType

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmdet_seg.ops import ms_deform_attn_torch
from mmdet_seg.ops.ms_deform_attn_plain import plain

_NAME = 'mmdet_seg::ms_deform_attn'
_INPUTS = 'Tensor value, Tensor shapes, Tensor locations, Tensor weights, str backend'
torch.library.define(_NAME, f'({_INPUTS}) -> Tensor')
torch.library.define(f'{_NAME}_backward', f'(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)')


def attend(
    value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    """The attended values (B, Q, M * D).

    Args:
        shapes: (L, 2) integers on the CPU.
        backend: 'auto', 'torch' or 'triton'.

    Raises:
        ValueError: ``shapes`` do not cover the maps, or ``backend`` cannot run here.
    """
    return torch.ops.mmdet_seg.ms_deform_attn(value, shapes, locations, weights, backend)


def check_cover(shapes: list[tuple[int, int]], positions: int) -> None:
    """Raise ValueError unless maps of these sizes have so many positions."""
    covered = sum(height * width for height, width in shapes)
    if covered != positions:
        raise ValueError(
            f'spatial_shapes={shapes} cover {covered} positions but value has {positions}; '
            'concatenate exactly these maps.'
        )


@torch.library.impl(_NAME, 'CompositeExplicitAutograd')
def _forward(
    value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    sizes = [(height, width) for height, width in shapes.tolist()]
    check_cover(sizes, value.shape[1])
    return _kernels(value.device, backend).forward(value, sizes, locations, weights)


@torch.library.impl(f'{_NAME}_backward', 'CompositeExplicitAutograd')
def _backward(
    grad: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [(height, width) for height, width in shapes.tolist()]
    return _kernels(value.device, backend).backward(grad, value, sizes, locations, weights)


@torch.library.register_fake(_NAME)
def _forward_shape(
    value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    B, _, M, D = value.shape
    return value.new_empty(B, locations.shape[1], M * D)


@torch.library.register_fake(f'{_NAME}_backward')
def _backward_shape(
    grad: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (value, locations, weights))


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
    value, shapes, locations, weights = ctx.saved_tensors
    if not torch.is_grad_enabled():
        operator = torch.ops.mmdet_seg.ms_deform_attn_backward
        grads = operator(grad, value, shapes, locations, weights, ctx.backend)
        return grads[0], None, *grads[1:], None
    # Somebody differentiates the gradient (create_graph): the kernels have no formula for that.
    out = plain(value, shapes.tolist(), locations, weights)
    inputs = [value, locations, weights]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    grads = [next(found) if tensor.requires_grad else None for tensor in inputs]
    return grads[0], None, *grads[1:], None


torch.library.register_autograd(_NAME, _gradients, setup_context=_save)


def _kernels(device: torch.device, backend: str) -> ModuleType:
    """The module whose ``forward`` and ``backward`` compute it."""
    if backend == 'auto':
        # Triton's sum of the maps' gradient depends on the order in which programs end.
        exact = torch.are_deterministic_algorithms_enabled()
        backend = 'triton' if device.type == 'cuda' and _has_triton() and not exact else 'torch'
        _log(device.type, backend)
    if backend == 'torch':
        return ms_deform_attn_torch
    if not _has_triton():
        raise ValueError(
            "backend='triton' needs the package triton: pip install triton, or use backend='auto'."
        )
    if device.type != 'cuda' and os.environ.get('TRITON_INTERPRET') != '1':
        raise ValueError(
            f"backend='triton' needs tensors on CUDA, not on {device.type}: use backend='auto' "
            '(TRITON_INTERPRET=1 runs it slowly anywhere).'
        )
    from mmdet_seg.ops import ms_deform_attn_triton

    return ms_deform_attn_triton


@lru_cache
def _has_triton() -> bool:
    return importlib.util.find_spec('triton') is not None


@lru_cache
def _log(device: str, backend: str) -> None:
    print_log(f'ms_deform_attn=auto on {device}: {backend}', 'current')
