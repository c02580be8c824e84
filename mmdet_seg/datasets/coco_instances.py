"""COCO's instances for detection, with the file that holds the truth."""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from mmdet_seg.mmdet_door import COCO, CocoDataset


class Annotations(COCO):
    """pycocotools' reader, to which annotations may come without ``area`` and ``iscrowd``."""

    def createIndex(self) -> None:
        """As theirs, with what every annotation has to have."""
        for annotation in self.dataset.get('annotations', ()):
            annotation.setdefault('iscrowd', 0)
            if 'area' not in annotation and 'bbox' in annotation:
                annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        super().createIndex()


class CocoInstances(CocoDataset):
    """mmdet's ``CocoDataset`` whose ``metainfo`` also names its ``ann_file``.

    A metric that is given no file of its own takes this one, so that data that lie elsewhere are
    named once.
    """

    COCOAPI = Annotations

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metainfo['ann_file'] = str(self.ann_file)

    def load_data_list(self) -> list[dict]:
        """mmdet's list, without the lines that pycocotools prints."""
        with redirect_stdout(StringIO()):
            return super().load_data_list()
