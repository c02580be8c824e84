"""The linear probe's head.

Shapes: B batch, D channels, (h, w) grid, C classes.
"""

from typing import Any

from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmdet_seg.registry import MODELS


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Batch norm and a 1x1 convolution, nothing else: (B, D, h, w) -> (B, C, h, w).

    ``norm_cfg`` chooses the norm (``SyncBN`` counts over all processes); None leaves it out. The
    parameters are named ``norm`` and ``conv_seg`` as in the authors' checkpoints.

    Args:
        in_channels: D, or one per selected map (``input_transform='resize_concat'``).
        num_classes: C.
        kwargs: Of mmseg's ``BaseDecodeHead``.

    Source:
        ``FCNHead(num_convs=0, with_norm=True)`` of OpenGVLab/InternVL's ``segmentation``.
    """

    def __init__(self, in_channels: int | list[int], *, num_classes: int, **kwargs: Any) -> None:
        channels = in_channels if isinstance(in_channels, int) else sum(in_channels)
        kwargs = {'dropout_ratio': 0.0, **kwargs, 'channels': channels}
        super().__init__(in_channels, num_classes=num_classes, **kwargs)
        self.norm = nn.Identity()
        if self.norm_cfg is not None:
            self.norm = build_norm_layer(self.norm_cfg, self.channels)[1]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
