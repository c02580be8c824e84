"""Names in the checkpoints of the authors' segmentors.

Their encoder holds the pyramid (``backbone.up1`` .. ``up4``, OpenGVLab/InternVL ``segmentation``
and InternVL-MMDetSeg); here it is the neck. Their ViT-Adapters mix the encoder's tensors with the
adapter's; here the encoder is ``backbone.encoder``. All other names are the same.
"""

import re
from typing import Any

from torch import nn

from mmdet_seg.necks.adapter_checkpoint import rename_in_place as rename_adapter
from mmdet_seg.necks.vit_adapter import ViTAdapter

_PYRAMID = re.compile(r'^backbone\.(up[1-4]\..+)$')


def rename_in_place(state: dict[str, Any], model: nn.Module | None = None) -> None:
    """Give the entries of a segmentor's state dict our names.

    Args:
        state: Names -> tensors.
        model: What it is for; a ViT-Adapter in it says which form its tensors take.
    """
    adapter = getattr(model, 'backbone', None)
    rename_adapter(state, adapter if isinstance(adapter, ViTAdapter) else None, 'backbone.')
    for name in [k for k in state if _PYRAMID.match(k)]:
        state[_PYRAMID.sub(r'neck.\1', name)] = state.pop(name)
