"""COCO's instances for detection, with the file that holds the truth."""

from typing import Any

from mmdet_seg.mmdet_door import CocoDataset


class CocoInstances(CocoDataset):
    """mmdet's ``CocoDataset`` whose ``metainfo`` also names its ``ann_file``.

    A metric that is given no file of its own takes this one, so that data that lie elsewhere are
    named once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metainfo['ann_file'] = str(self.ann_file)
