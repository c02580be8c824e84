"""Data sets: the built-in scenes, in ADE20K's and COCO's layouts, and a user's own folder."""

from importlib import import_module
from typing import Any

from mmdet_seg.datasets.folder_dataset import FolderSegDataset, LoadFolderMask
from mmdet_seg.datasets.scenes_dataset import SceneSegDataset
from mmdet_seg.registry import DATASETS

__all__ = [
    'CocoInstances',
    'FolderSegDataset',
    'LoadFolderMask',
    'SceneDetDataset',
    'SceneSegDataset',
]
_NEED_MMDET = {
    'CocoInstances': 'mmdet_seg.datasets.coco_instances',
    'SceneDetDataset': 'mmdet_seg.datasets.scenes_det_dataset',
}


def __getattr__(name: str) -> Any:
    """Import what needs mmdet, an optional extra, on first use only."""
    if name not in _NEED_MMDET:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_NEED_MMDET[name]), name)


for _name in _NEED_MMDET:

    def _build(_name: str = _name, **kwargs: Any) -> Any:
        return __getattr__(_name)(**kwargs)

    DATASETS.register_module(name=_name, module=_build)
