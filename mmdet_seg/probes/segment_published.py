"""Figures of others' linear segmentation probes, to be shown beside a run's on the same data.

Compare within a protocol: crops, schedules and norms differ by a point between them.
"""

from typing import Any

from mmengine.config import Config

from mmdet_seg.config_path import resolve_config

_RECIPE = 'linear_internvit'
_INTERNVIT = 'internvit, OpenGVLab/InternVL-MMDetSeg and arXiv 2412.05271, table 15'
_DINOV2 = 'dinov2, arXiv 2304.07193'
_DINOV3 = 'dinov3, DINOv3 MODEL_CARD.md'
_RADIO = 'radio, model card'
# ADE20K, mIoU of a frozen linear probe, one scale.
_ADE20K = (
    ('DINOv2-g', 49.0, _DINOV2),
    ('DINOv2-L', 47.7, _DINOV2),
    ('DINOv3-7B', 55.9, _DINOV3),
    ('DINOv3-H+', 54.8, _DINOV3),
    ('DINOv3-L', 54.9, _DINOV3),
    ('DINOv3-B', 51.8, _DINOV3),
    ('DINOv3-S+', 48.8, _DINOV3),
    ('DINOv3-S', 47.0, _DINOV3),
    ('C-RADIOv4-H', 55.2, _RADIO),
    ('C-RADIOv3-H', 52.75, _RADIO),
    ('C-RADIOv3-L', 51.87, _RADIO),
    ('C-RADIOv3-B', 49.79, _RADIO),
    ('ViT-22B', 34.6, 'OpenGVLab/InternVL-MMDetSeg'),
    ('OpenCLIP-G', 39.3, 'OpenGVLab/InternVL-MMDetSeg'),
)


def published_rows(data: str) -> list[dict[str, Any]]:
    """``name score source`` of every figure that is known for this data; mIoU in percent.

    Args:
        data: As ``--data`` has it.
    """
    table = Config.fromfile(str(resolve_config(_RECIPE))).published_miou.get(data) or {}
    rows = [
        {'name': f'InternViT-{name}', 'score': score, 'source': _INTERNVIT}
        for name, score in table.items()
    ]
    if data == 'ade20k':
        rows += [{'name': n, 'score': score, 'source': source} for n, score, source in _ADE20K]
    return rows
