"""The precision in which a stand-in computes."""

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of the tensors, at least float32.

    torchvision's kernels have no bfloat16 anywhere and no half on the CPU.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
