"""``ddp``: every process holds everything, gradients are averaged."""

from typing import Any

from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmdet_seg.engine.strategies.base import BuildOptim, Strategy


class Replicated(Strategy):
    """PyTorch's DistributedDataParallel over the parameters that train.

    Args:
        find_unused_parameters: Some parameters get no gradient in some steps.
    """

    needs_group = True

    def __init__(self, find_unused_parameters: bool = False) -> None:
        self.find_unused_parameters = find_unused_parameters

    def _wrap(self, model: nn.Module, build_optim: BuildOptim) -> tuple[nn.Module, Any]:
        device = next(model.to(get_device()).parameters()).device
        optim_wrapper = build_optim(model)
        wrapped = MMDistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == 'cuda' else None,
            broadcast_buffers=False,  # statistics of batch norm are synchronised where they arise
            gradient_as_bucket_view=True,
            find_unused_parameters=self.find_unused_parameters,
        )
        return wrapped, optim_wrapper
