"""Built-in scenes for panoptic segmentation: instances of things and a map of the rest."""

from typing import Any

from mmdet_seg.datasets.scene_classes import CLASSES, IDS, PALETTE, THING_CLASSES, UNLABELLED
from mmdet_seg.datasets.scenes_det_dataset import SceneDetDataset
from mmdet_seg.datasets.scenes_files import SPLITS

_STUFF = tuple(name for name in CLASSES if name not in THING_CLASSES)
_ORDER = THING_CLASSES + _STUFF  # things come first, as mmdet's heads number them
_VOID = 255


class ScenePanopticDataset(SceneDetDataset):
    """:class:`SceneDetDataset` with a semantic map of every class, things first.

    Args:
        split: ``training`` or ``validation``.
        kwargs: Of :class:`SceneDetDataset`.
    """

    METAINFO = dict(
        classes=_ORDER,
        thing_classes=THING_CLASSES,
        stuff_classes=_STUFF,
        palette=[tuple(PALETTE[CLASSES.index(name)]) for name in _ORDER],
    )

    def __init__(self, *, split: str = 'training', **kwargs: Any) -> None:
        folders = dict(img=f'images/{split}', seg=f'annotations/{split}')
        kwargs.setdefault('data_prefix', folders if split in SPLITS else {})
        super().__init__(split=split, **kwargs)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """mmdet's, and which class a value of the map stands for."""
        info = super().parse_data_info(raw_data_info)
        numbers = {IDS[name]: label for label, name in enumerate(_ORDER)}
        return {**info, 'label_map': {UNLABELLED: _VOID, **numbers}}
