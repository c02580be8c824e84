"""The one place that imports mmdet, an optional extra.

Whatever extends a class of mmdet's takes it from here; what only names one (``type='MaskRCNN'``)
leaves it to the registry.
"""

try:
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
    from mmdet.evaluation import CocoMetric
    from mmdet.models import DINO, CascadeRCNN, DetTTAModel, MaskRCNN
    from mmdet.structures import DetDataSample
except ModuleNotFoundError as error:
    if error.name != 'mmdet':
        raise
    raise ImportError(
        'Detection needs mmdet, which is not installed: pip install mmdet_seg[det]'
    ) from None

__all__ = [
    'COCO',
    'DINO',
    'CascadeRCNN',
    'CocoDataset',
    'CocoMetric',
    'DetDataSample',
    'DetTTAModel',
    'LoadAnnotations',
    'LoadPanopticAnnotations',
    'MaskRCNN',
]
