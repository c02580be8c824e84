"""Mixed precision in bfloat16 on any device.

mmengine's ``AmpOptimWrapper`` refuses to run without an accelerator, and its loss scaler is for
float16. bfloat16 has float32's range and needs none.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """``OptimWrapper`` with the forward pass under bfloat16 autocast; weights stay as is."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
