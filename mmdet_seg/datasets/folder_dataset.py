"""A user's own folder of images and masks as a segmentation data set."""

import shlex
from pathlib import Path

import mmengine
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from mmdet_seg.datasets.folder_index import read_index
from mmdet_seg.datasets.folder_masks import parts_to_key, read_mask, to_classes
from mmdet_seg.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class FolderSegDataset(BaseSegDataset):
    """A folder that ``tools/prepare.py check`` has prepared.

    Args:
        data_root: The folder, with its ``dataset.json``.
        split: ``train`` or ``val``.
        ann_file: Names to keep, one a line: images relative to the folder, without suffix.
        **kwargs: See :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: The folder was not prepared, or files that it had are gone.
        ValueError: No such split, or ``ann_file`` names an image that is not in it.
    """

    def __init__(
        self, data_root: str | Path, split: str = 'train', ann_file: str = '', **kwargs: object
    ) -> None:
        self.index = read_index(data_root)
        if split not in self.index.splits:
            raise ValueError(
                f"split='{split}' is not one of: {', '.join(self.index.splits)} ({data_root})."
            )
        self.split = split
        kwargs.setdefault('data_prefix', dict(img_path='', seg_map_path=''))
        kwargs.setdefault(
            'metainfo', dict(classes=tuple(self.index.classes), palette=self.index.palette)
        )
        super().__init__(data_root=str(data_root), ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per pair, in the order of ``dataset.json``."""
        root = Path(self.data_root)
        pairs = {Path(image).with_suffix('').as_posix(): (image, mask) for image, mask in self._all}
        if self.ann_file:
            names = [line.strip() for line in mmengine.list_from_file(self.ann_file)]
            if unknown := [n for n in names if n not in pairs]:
                raise ValueError(
                    f'{self.ann_file} names {unknown[0]!r}, which is not in the {self.split} split '
                    f'of {root}.'
                )
            pairs = {n: pairs[n] for n in names}
        for name in (n for pair in pairs.values() for n in pair):
            if not (root / name).is_file():
                raise FileNotFoundError(
                    f'{root / name} is gone since the folder was prepared; '
                    f"run 'python tools/prepare.py check {shlex.quote(str(root))}' again."
                )
        common = dict(
            label_map=None,
            reduce_zero_label=self.reduce_zero_label,
            seg_coding=self.index.coding,
            seg_keys=[parts_to_key(parts) for parts in self.index.labels],
        )
        return [
            dict(img_path=str(root / i), seg_map_path=str(root / m), seg_fields=[], **common)
            for i, m in pairs.values()
        ]

    @property
    def _all(self) -> list[list[str]]:
        return self.index.splits[self.split]

    def name_of(self, info: dict) -> str:
        """The name by which ``ann_file`` knows an entry of :meth:`load_data_list`."""
        return Path(info['img_path']).relative_to(self.data_root).with_suffix('').as_posix()


@TRANSFORMS.register_module()
class LoadFolderMask(BaseTransform):
    """Load a mask of a :class:`FolderSegDataset` as class numbers, (H, W) uint8, 255 ignored."""

    def transform(self, results: dict) -> dict:
        mask, _ = read_mask(results['seg_map_path'], results['seg_coding'])
        results['gt_seg_map'] = to_classes(mask, results['seg_keys'])
        results['seg_fields'].append('gt_seg_map')
        return results
