"""Stand-in for ``mmcv._ext``, mmcv's compiled operators, on PyTorch and torchvision.

Needed because mmcv-lite 2.1.0 (the build of mmcv that installs without a compiler) ships
``mmcv.ops`` without its compiled half, and mmcv 2.x does not compile against PyTorch 2.14. It is
used only where no compiled ``mmcv._ext`` can be imported. Delete it when mmcv publishes wheels for
the PyTorch that ``constraints.txt`` pins.

Here is every operator that the models of mmsegmentation 1.2.2 and mmdetection 3.3.0 call, forward
and backward, on CPU and CUDA, with the calling convention of the compiled one: results are written
into tensors that the caller made. Any other operator can be looked up, which is all that importing
``mmcv.ops`` needs, and raises when it is called.
"""

from collections.abc import Callable
from typing import NoReturn

import torch
import torchvision

from mmdet_seg.compat.mmcv_ext.attention import ms_deform_attn_backward, ms_deform_attn_forward
from mmdet_seg.compat.mmcv_ext.boxes import bbox_overlaps, nms, nms_match, softnms
from mmdet_seg.compat.mmcv_ext.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from mmdet_seg.compat.mmcv_ext.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmdet_seg.compat.mmcv_ext.deform_roi_pool import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
)
from mmdet_seg.compat.mmcv_ext.losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmdet_seg.compat.mmcv_ext.masked_conv import masked_col2im_forward, masked_im2col_forward
from mmdet_seg.compat.mmcv_ext.psa_mask import psamask_backward, psamask_forward
from mmdet_seg.compat.mmcv_ext.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from mmdet_seg.compat.mmcv_ext.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)

__all__ = [
    'bbox_overlaps',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def get_compiler_version() -> str:
    """What environment reports print in place of a compiler."""
    return f'none: operators of torchvision {torchvision.__version__} (mmdet_seg.compat)'


def get_compiling_cuda_version() -> str:
    """CUDA release that torch was built with."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable:
    """An operator without a stand-in: importable, an error when called."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f'mmcv operator {name!r} has no stand-in here: install a compiled mmcv to use it.'
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
