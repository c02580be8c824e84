"""Any of mmdet's detectors, with the numbers that follow from its encoder filled in."""

from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.config import ConfigDict

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.backbones.output_spec import output_spec
from mmdet_seg.registry import MODELS


@MODELS.register_module(name='Detector')
def build_detector(detector: str | type, **cfg: Any) -> Any:
    """Build a detector of mmdet's; what its config leaves out comes from the encoder.

    Filled in are channels and strides of the necks (one, or a list that is run in order), channels
    of the region proposal, box and mask heads, strides of their anchors, channels, strides and
    scale of the region extractors, channels and stride of an encoder-only mask head. What a config
    gives stays as it is.

    Args:
        detector: mmdet's class or its name, such as ``'mmdet.MaskRCNN'``.
        cfg: Of that class; ``backbone`` is a module with ``output_spec()``.

    Returns:
        An instance of ``detector``.
    """
    cfg = dict(cfg)
    spec = output_spec(cfg['backbone'])
    if neck := cfg.get('neck'):
        parts = []
        for part in neck if isinstance(neck, Sequence) else [neck]:
            part, spec = fill_in_neck(part, spec)
            parts.append(part)
        cfg['neck'] = parts if isinstance(neck, Sequence) else parts[0]
    if cfg.get('rpn_head'):
        cfg['rpn_head'] = _dense_head(cfg['rpn_head'], spec)
        anchor = cfg['rpn_head']['anchor_generator']['scales'][0] * spec[0].stride
    if cfg.get('roi_head'):
        cfg['roi_head'] = _roi_head(cfg['roi_head'], spec, anchor)
    if cfg.get('semantic_head'):
        numbers = dict(in_channels=spec[0].channels, in_stride=spec[0].stride)
        cfg['semantic_head'] = _with(cfg['semantic_head'], **numbers)
    if _is_dense(cfg.get('bbox_head')):
        cfg['bbox_head'] = _dense_head(cfg['bbox_head'], spec)
    if 'in_stride' in (cfg.get('panoptic_head') or {}):
        cfg['panoptic_head'] = _mask_head(cfg['panoptic_head'], spec)
    return MODELS.build({'type': detector, **cfg})


def fill_in_neck(
    neck: dict[str, Any], spec: Sequence[FeatureSpec]
) -> tuple[dict[str, Any], list[FeatureSpec]]:
    """A neck's config with its numbers, and what the neck returns."""
    neck = {'in_channels': [s.channels for s in spec], **neck}
    if hasattr(_class(neck['type']), 'output_spec'):
        neck.setdefault('in_strides', [s.stride for s in spec])
        return neck, output_spec(neck)
    # mmdet's keep the strides that they are given and halve the coarsest for further levels.
    strides = [s.stride for s in spec][neck.get('start_level', 0) :][: neck['num_outs']]
    while len(strides) < neck['num_outs']:
        strides.append(2 * strides[-1])
    return neck, [FeatureSpec(neck['out_channels'], stride) for stride in strides]


def _class(kind: str | type) -> Any:
    return MODELS.get(kind) if isinstance(kind, str) else kind


def _is_dense(head: Any) -> bool:
    return isinstance(head, dict) and 'anchor_generator' in head


def _dense_head(head: dict[str, Any], spec: Sequence[FeatureSpec]) -> dict[str, Any]:
    head = _with(head, in_channels=spec[0].channels)
    strides = [s.stride for s in spec]
    return {**head, 'anchor_generator': _with(head['anchor_generator'], strides=strides)}


def _mask_head(head: dict[str, Any], spec: Sequence[FeatureSpec]) -> ConfigDict:
    index = head.get('in_index', -1)
    maps = [spec[i] for i in ([index] if isinstance(index, int) else index)]
    filled = _with(head, in_channels=[s.channels for s in maps])
    if head['in_stride'] is None:
        filled['in_stride'] = maps[-1].stride
    return ConfigDict(filled)  # mmdet's detector asks for a copy of one


def _roi_head(head: dict[str, Any], spec: Sequence[FeatureSpec], anchor: float) -> dict[str, Any]:
    """Box and mask heads of the second stage; the coarsest map is for proposals alone.

    Regions go to the map whose anchors are about their size: from 1.75 times the finest map's
    anchors (mmdet's 56 for anchors of 32), each doubling of a region's side goes a map up.
    """
    strides = [s.stride for s in spec[:-1]]
    numbers = dict(
        out_channels=spec[0].channels, featmap_strides=strides, finest_scale=1.75 * anchor
    )
    filled = dict(head)
    for key in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if head.get(key):
            filled[key] = _each(head[key], numbers)
    for key in ('bbox_head', 'mask_head'):
        if head.get(key):
            filled[key] = _each(head[key], dict(in_channels=spec[0].channels))
    return filled


def _each(part: dict | Iterable[dict], numbers: dict[str, Any]) -> dict | list[dict]:
    return _with(part, **numbers) if isinstance(part, dict) else [_with(p, **numbers) for p in part]


def _with(part: dict[str, Any], **numbers: Any) -> dict[str, Any]:
    return {**numbers, **part}
