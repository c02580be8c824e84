"""A frozen encoder that reads pixels, and what that cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmdet_seg.probes.frozen_encoder import FrozenEncoder, LayerFeatures


@dataclass
class Cost:
    """What the encoder took so far: seconds, images, and bytes that were stored."""

    seconds: float = 0.0
    images: int = 0
    disk: int = 0


@dataclass
class Reader:
    """How features are made: the encoder, where and how it reads.

    Attributes:
        encoder: On its device.
        batch: Images at a time.
        workers: Processes that read images.
        final_norm: Features go through the encoder's own last norm.
        cost: Counted while it works.
    """

    encoder: FrozenEncoder
    batch: int = 64
    workers: int = 0
    final_norm: bool = False
    cost: Cost = field(default_factory=Cost)

    def features(self, images: Tensor, layers: Sequence[int]) -> dict[int, LayerFeatures]:
        """Of images (B, 3, S, S) with values 0 to 255."""
        started = time.monotonic()
        encoder, device = self.encoder, self.encoder.device
        mean = torch.tensor(encoder.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(encoder.std, device=device).view(1, 3, 1, 1)
        images = (images.to(device).float() - mean) / std
        found = encoder.features(images, layers, final_norm=self.final_norm)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        self.cost.seconds += time.monotonic() - started
        self.cost.images += len(images)
        return found
