"""A user's own images with boxes or masks in one or two JSON files of COCO's layout."""

from pathlib import Path
from typing import Any

from mmdet_seg.datasets.coco_annotations import draw_validation, find_coco
from mmdet_seg.datasets.coco_instances import CocoInstances
from mmdet_seg.datasets.folder_classes import Classes
from mmdet_seg.datasets.folder_masks import VALUES


class CocoFolder(CocoInstances):
    """A split of such a folder; classes come from the file.

    Args:
        data_root: The folder.
        split: ``train`` or ``val``.
        kwargs: Of mmdet's ``CocoDataset``.

    Raises:
        FileNotFoundError: See :func:`find_coco`.
        ValueError: Likewise, or another split.
    """

    def __init__(self, data_root: str | Path, split: str = 'train', **kwargs: Any) -> None:
        found = find_coco(data_root)
        if split not in found:
            raise ValueError(f"split='{split}' is not one of: {', '.join(found)} ({data_root}).")
        source = found[split]
        self.split, self.drawn = split, source.drawn
        number = range(len(source.classes))
        palette = Classes(list(source.classes), list(number)).palette(VALUES)
        kwargs.setdefault('metainfo', dict(classes=source.classes, palette=palette))
        super().__init__(
            data_root='',
            ann_file=str(source.file),
            data_prefix=dict(img=str(source.images)),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """mmdet's list; of a file without splits, the part that is this one's."""
        entries = super().load_data_list()
        if not self.drawn:
            return entries
        held_out = draw_validation([entry['img_id'] for entry in entries])
        return [e for e in entries if (e['img_id'] in held_out) == (self.split == 'val')]
