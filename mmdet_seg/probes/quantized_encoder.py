"""A frozen encoder with weights of 8 bits, and what that changes."""

from typing import Any

from mmdet_seg.probes.frozen_encoder import FrozenEncoder


def quantize_encoder(encoder: FrozenEncoder, how: str) -> Any:
    raise ValueError(f'--quantize {how}: not written yet.')
