"""mmseg's data preprocessor that takes test images of different sizes in one batch."""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models import SegDataPreProcessor as _SegDataPreProcessor

from mmdet_seg.registry import MODELS


@MODELS.register_module()
class SegDataPreProcessor(_SegDataPreProcessor):
    """mmseg's; test images of different sizes are padded at the right and bottom to the largest.

    ``img_padding_size`` (left, right, top, bottom, pixels) in an image's metainfo says how much;
    :class:`mmdet_seg.segmentors.EncoderDecoder` leaves the padding out of its computation.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        if training or len({tuple(x.shape) for x in data['inputs']}) == 1:
            return super().forward(data, training)
        samples = data.get('data_samples')
        alone = [
            super(SegDataPreProcessor, self).forward(
                dict(inputs=[x], data_samples=samples and [samples[i]])
            )['inputs']
            for i, x in enumerate(data['inputs'])
        ]
        H, W = (max(x.shape[axis] for x in alone) for axis in (2, 3))
        padded = [F.pad(x, (0, W - x.shape[3], 0, H - x.shape[2])) for x in alone]
        for x, sample in zip(data['inputs'], samples or [], strict=False):
            right, bottom = W - x.shape[2], H - x.shape[1]
            sample.set_metainfo(dict(img_padding_size=(0, right, 0, bottom), pad_shape=(H, W)))
        return dict(inputs=torch.cat(padded), data_samples=samples)
