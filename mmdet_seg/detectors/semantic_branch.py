"""Two-stage detectors that also learn from label maps while they train.

Boxes and masks say little about an image to an encoder that starts from nothing; a label for every
pixel says a lot. The branch costs little and is not used to predict.

Shapes: B images, C classes, D channels, (h, w) the finest map, S its stride in pixels.

Source:
    The semantic branch of Hybrid Task Cascade, https://arxiv.org/abs/1901.07518.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_seg.mmdet_door import CascadeRCNN, MaskRCNN
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm
from mmdet_seg.registry import MODELS


class SemanticHead(nn.Module):
    """Two convolutions on the finest map: (B, D, h, w) -> (B, C, h, w).

    Args:
        in_channels: D.
        in_stride: S.
        num_classes: C.
        channels: Between the convolutions.
        loss_weight: Factor of the loss.
        ignore_index: Label of pixels that do not count.
    """

    def __init__(
        self,
        in_channels: int,
        in_stride: int,
        num_classes: int,
        channels: int = 64,
        loss_weight: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.stride, self.weight, self.ignore = in_stride, loss_weight, ignore_index
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            SyncBatchNorm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )

    def loss(self, maps: Sequence[Tensor], data_samples: Sequence[Any]) -> Tensor:
        """Cross entropy at the centres of the finest map's cells.

        Args:
            maps: Fine to coarse.
            data_samples: mmdet's, with ``gt_sem_seg``.
        """
        logits = self.layers(maps[0])
        at = self.stride // 2
        labels = torch.cat([sample.gt_sem_seg.sem_seg for sample in data_samples])
        labels = labels[:, at :: self.stride, at :: self.stride].long()
        return self.weight * F.cross_entropy(logits.float(), labels, ignore_index=self.ignore)


class _SemanticBranch:
    """Adds the head's loss to a detector's."""

    def __init__(self, *args: Any, semantic_head: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.semantic_head = SemanticHead(**semantic_head) if semantic_head else None

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """The neck's maps, which the branch reads too."""
        maps = super().extract_feat(batch_inputs)
        self._maps = maps if self.training else None
        return maps

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """mmdet's losses and ``loss_semantic``."""
        losses = super().loss(batch_inputs, batch_data_samples)
        if self.semantic_head is not None:
            losses['loss_semantic'] = self.semantic_head.loss(self._maps, batch_data_samples)
        self._maps = None
        return losses


@MODELS.register_module()
class SemanticMaskRCNN(_SemanticBranch, MaskRCNN):
    """Mask R-CNN with a semantic branch where ``semantic_head`` is given, without it mmdet's."""


@MODELS.register_module()
class SemanticCascadeRCNN(_SemanticBranch, CascadeRCNN):
    """Cascade R-CNN likewise."""
