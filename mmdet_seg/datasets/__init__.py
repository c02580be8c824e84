"""Data sets: the built-in scenes, in ADE20K's and COCO's layouts, and a user's own folder."""

from typing import Any

from mmdet_seg.datasets.folder_dataset import FolderSegDataset, LoadFolderMask
from mmdet_seg.datasets.scenes_dataset import SceneSegDataset
from mmdet_seg.registry import DATASETS

__all__ = ['FolderSegDataset', 'LoadFolderMask', 'SceneDetDataset', 'SceneSegDataset']


def __getattr__(name: str) -> Any:
    """Import what needs mmdet, an optional extra, on first use only."""
    if name != 'SceneDetDataset':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmdet_seg.datasets.scenes_det_dataset import SceneDetDataset

    return SceneDetDataset


@DATASETS.register_module(name='SceneDetDataset')
def _build_scene_det_dataset(**kwargs: Any) -> Any:
    return __getattr__('SceneDetDataset')(**kwargs)
