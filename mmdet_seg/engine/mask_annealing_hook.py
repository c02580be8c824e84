"""Tells mask transformers how far the training is."""

from typing import Any

from mmengine.hooks import Hook

from mmdet_seg.heads.mask_transformer import MaskTransformer
from mmdet_seg.registry import HOOKS


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Sets every :class:`MaskTransformer`'s share of the training before an iteration.

    It depends on the iteration alone: a run that was resumed anneals as one that was not.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.model.modules():
            if isinstance(module, MaskTransformer):
                module.progress = runner.iter / runner.max_iters
