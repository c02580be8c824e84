"""Names in the checkpoints of the authors' segmentors.

Their encoder holds the pyramid (``backbone.up1`` .. ``up4``, OpenGVLab/InternVL ``segmentation``
and InternVL-MMDetSeg); here it is the neck. All other names are the same.
"""

import re
from typing import Any

_PYRAMID = re.compile(r'^backbone\.(up[1-4]\..+)$')


def rename_in_place(state: dict[str, Any]) -> None:
    """Give the pyramid's entries of a segmentor's state dict our names; others stay."""
    for name in [k for k in state if _PYRAMID.match(k)]:
        state[_PYRAMID.sub(r'neck.\1', name)] = state.pop(name)
