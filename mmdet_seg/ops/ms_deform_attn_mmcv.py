"""Multi-scale deformable attention of a compiled mmcv.

mmcv-lite has no compiled half; where the stand-in of :mod:`mmdet_seg.compat` takes its place, this
backend is absent, since the stand-in comes back here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def compiled() -> bool:
    """Whether mmcv's own compiled operators are installed."""
    try:
        import mmcv._ext
    except ImportError:
        return False
    return getattr(mmcv._ext, '__file__', None) is not None  # a stand-in is no file


def attend(
    value: Tensor,
    shapes: Tensor | Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """The attended values (B, Q, M * D) of mmcv's operator, which rounds locations to the dtype
    of ``value``.

    Raises:
        ValueError: There is no compiled mmcv.
    """
    if not compiled():
        raise ValueError(
            "backend='mmcv' needs a compiled mmcv, and mmcv-lite has none: install mmcv "
            "(pip install 'mmcv>=2.0.0rc4,<2.2'), or use backend='auto'."
        )
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.as_tensor(shapes, dtype=torch.int64, device=value.device)
    sizes = shapes.prod(1)
    starts = sizes.cumsum(0) - sizes
    # The last number is how many images a launch takes; it has to divide the batch.
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(), shapes, starts, locations, weights, len(value)
    )
