"""mmseg's EncoderDecoder whose neck and heads take their channel numbers from the encoder."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder as _EncoderDecoder

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(_EncoderDecoder):
    """Encoder, optional neck and heads, joined by :class:`FeatureSpec`.

    What a config leaves out is filled in: the neck's ``in_channels`` and ``in_strides`` from the
    encoder's ``output_spec()``, every head's ``in_channels`` from the spec of the maps that its
    ``in_index`` selects. What a config gives stays as given.

    Args:
        backbone: Config of a module with ``output_spec()``.
        decode_head: Config of an mmseg head.
        neck: Config of a module with ``output_spec()``.
        auxiliary_head: Config or list of configs.
        kwargs: Of mmseg's ``EncoderDecoder``.

    Raises:
        ValueError: A head selects a map that there is not.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        auxiliary_head: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        spec = output_spec(backbone)
        if neck is not None:
            neck = {'in_channels': [s.channels for s in spec], **neck}
            neck.setdefault('in_strides', [s.stride for s in spec])
            spec = output_spec(neck)
        heads = auxiliary_head
        if isinstance(heads, Sequence):
            heads = [fill_in_channels(head, spec) for head in heads]
        elif heads is not None:
            heads = fill_in_channels(heads, spec)
        super().__init__(
            backbone,
            fill_in_channels(decode_head, spec),
            neck=neck,
            auxiliary_head=heads,
            **kwargs,
        )


def output_spec(cfg: dict[str, Any]) -> list[FeatureSpec]:
    """What a backbone or neck would return, from a copy that takes no memory."""
    cfg = {**deepcopy(dict(cfg)), 'init_cfg': None}
    with torch.device('meta'):
        return MODELS.build(cfg).output_spec()


def fill_in_channels(head: dict[str, Any], spec: Sequence[FeatureSpec]) -> dict[str, Any]:
    """Add ``in_channels`` to a head's config where it is missing."""
    if 'in_channels' in head:
        return head
    index = head.get('in_index', -1)
    indices = [index] if isinstance(index, int) else list(index)
    if any(not -len(spec) <= i < len(spec) for i in indices):
        raise ValueError(
            f'in_index={index} selects a map that there is not; there are {len(spec)}: '
            f'0 .. {len(spec) - 1}.'
        )
    channels = [spec[i].channels for i in indices]
    return {'in_channels': channels[0] if isinstance(index, int) else channels, **head}
