"""The one door to multi-scale deformable attention.

Shape letters: B batch, N positions of all levels, M heads, D channels of a head, L levels,
Q queries, P sampling points of a head on a level.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mmdet_seg.ops import ms_deform_attn_mmcv, ms_deform_attn_op
from mmdet_seg.ops.ms_deform_attn_plain import plain

BACKENDS = ('auto', 'torch', 'triton', 'mmcv')
# What 'auto' means: reaches callers that have no argument for it, such as mmcv's module.
VARIABLE = 'MMDET_SEG_DEFORM_ATTN'
_NO_PAIRS = 'spatial_shapes={} is not a list of (height, width); give one pair per level.'
_AUTO = os.environ.get(VARIABLE, 'auto')


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = 'auto',
) -> Tensor:
    """Weighted sum of bilinear samples of several maps, at places given per query.

    Works in any floating dtype, forward and backward. Half and bfloat16 inputs are sampled and
    added up in float32 (a bfloat16 coordinate is off by a pixel from 256 pixels on) and the result
    is returned in the dtype of ``value``. ``torch.compile`` sees one operator; ``torch.export`` and
    ONNX get plain ones, and so does a gradient of a gradient.

    Args:
        value: (B, N, M, D), the maps one after the other, each row-major.
        spatial_shapes: (L, 2), height and width of each map. A tensor on a GPU is copied to the
            host, which waits for the device; a list of pairs does not.
        sampling_locations: (B, Q, M, L, P, 2), x then y, 0 and 1 at the outer edges of the map.
            Outside a map there are zeros.
        attention_weights: (B, Q, M, L, P).
        backend: ``'torch'`` (any device; on CPU every run gives the same bits), ``'triton'``
            (CUDA), or ``'mmcv'`` (a compiled mmcv). ``'auto'`` is what the environment variable
            ``MMDET_SEG_DEFORM_ATTN`` names, else Triton on CUDA where it is installed and PyTorch
            is not told to be deterministic, else PyTorch.

    Returns:
        (B, Q, M * D).

    Raises:
        ValueError: A shape does not fit the others, or ``backend`` cannot run here.

    Source:
        Deformable DETR, https://arxiv.org/abs/2010.04159; conventions of mmcv's
        ``multi_scale_deformable_attn_pytorch``.
    """
    shapes = spatial_shapes if isinstance(spatial_shapes, Tensor) else _pairs(spatial_shapes)
    _check_shapes(value, shapes, sampling_locations, attention_weights)
    if backend not in BACKENDS:
        raise ValueError(f'backend={backend!r} is not one of {", ".join(BACKENDS)}.')
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return plain(value, shapes, sampling_locations, attention_weights)
    if backend == 'auto':
        backend = _auto()
    if backend == 'mmcv':
        return ms_deform_attn_mmcv.attend(value, shapes, sampling_locations, attention_weights)
    shapes = shapes.cpu() if isinstance(shapes, Tensor) else torch.tensor(shapes)
    return ms_deform_attn_op.attend(value, shapes, sampling_locations, attention_weights, backend)


def _auto() -> str:
    if _AUTO not in BACKENDS:
        raise ValueError(f'{VARIABLE}={_AUTO} is not one of {", ".join(BACKENDS)}.')
    return _AUTO


def _pairs(shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    try:
        return [(height, width) for height, width in shapes]
    except (TypeError, ValueError):
        raise ValueError(_NO_PAIRS.format(shapes)) from None


def _check_shapes(
    value: Tensor,
    shapes: Tensor | list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> None:
    """Raise ValueError where the four arguments do not belong together."""
    if isinstance(shapes, Tensor) and (shapes.ndim != 2 or shapes.shape[1] != 2):
        raise ValueError(_NO_PAIRS.format(shapes.tolist()))
    if value.ndim != 4 or not value.is_floating_point():
        raise ValueError(
            f'value has shape {tuple(value.shape)} and {value.dtype}; '
            'it must be floating (B, N, heads, dim).'
        )
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(
            f'sampling_locations has shape {tuple(locations.shape)}; '
            'it must be (B, Q, heads, levels, points, 2).'
        )
    batch, positions, heads, _ = value.shape
    if not isinstance(shapes, Tensor):
        ms_deform_attn_op.check_cover(shapes, positions)
    expected = (batch, heads, len(shapes))
    found = (locations.shape[0], locations.shape[2], locations.shape[3])
    if found != expected:
        raise ValueError(
            f'sampling_locations has (B, heads, levels) = {found}, value and spatial_shapes have '
            f'{expected}; they must agree.'
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f'attention_weights has shape {tuple(weights.shape)}; sampling_locations asks for '
            f'{tuple(locations.shape[:-1])}.'
        )
