"""COCO's instances for detection, with the file that holds the truth."""

from contextlib import redirect_stdout
from io import StringIO
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

    def load_data_list(self) -> list[dict]:
        """mmdet's list, without the lines that pycocotools prints."""
        with redirect_stdout(StringIO()):
            return super().load_data_list()
