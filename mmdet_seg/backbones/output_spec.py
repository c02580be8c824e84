"""What a backbone or neck would return, known from its config."""

from copy import deepcopy
from typing import Any

import torch

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.registry import MODELS


def output_spec(cfg: dict[str, Any]) -> list[FeatureSpec]:
    """Channels and stride of every map, from a copy that takes no memory."""
    cfg = {**deepcopy(dict(cfg)), 'init_cfg': None}
    with torch.device('meta'):
        return MODELS.build(cfg).output_spec()
