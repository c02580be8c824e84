"""Built-in scenes as a semantic segmentation data set."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmdet_seg.datasets.scenes import CLASSES, PALETTE
from mmdet_seg.datasets.scenes_files import SPLITS, prepare_scenes, read_manifest
from mmdet_seg.registry import DATASETS


def find_scenes(
    data_root: str | Path,
    prepare: bool,
    num_train: int,
    num_val: int,
    seed: int,
    size: tuple[int, int],
) -> Path:
    """The folder of a set of scenes, written first where that is allowed.

    Args:
        data_root: A set's own folder (with its ``manifest.json``), or the folder that holds sets.
        prepare: Write the set into ``data_root`` where it is missing.

    Raises:
        FileNotFoundError: There is no set and ``prepare`` is off.
    """
    if read_manifest(data_root) is not None:
        return Path(data_root)
    if prepare:
        return prepare_scenes(data_root, num_train, num_val, seed, size)
    raise FileNotFoundError(
        f"No scenes in '{data_root}' (no manifest.json); set prepare=True to have them written."
    )


@DATASETS.register_module()
class SceneSegDataset(BaseSegDataset):
    """Built-in scenes in ADE20K's layout; label 0 of the files is unlabelled, as ADE20K's is.

    Args:
        data_root: Where sets of scenes are kept, or one set's folder.
        split: ``training`` or ``validation``.
        prepare: Write the scenes where they are missing.
        num_train: Training images of the set.
        num_val: Validation images of the set.
        seed: Seed of the set.
        size: Typical height and width in pixels.
        **kwargs: See :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        ValueError: ``split`` is not one of the two.
        FileNotFoundError: The scenes are missing and ``prepare`` is off.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(
        self,
        data_root: str | Path = 'data/scenes',
        split: str = 'training',
        prepare: bool = True,
        num_train: int = 600,
        num_val: int = 100,
        seed: int = 0,
        size: tuple[int, int] = (256, 320),
        reduce_zero_label: bool = True,
        **kwargs: object,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split='{split}' is not one of: {', '.join(SPLITS)}.")
        folder = find_scenes(data_root, prepare, num_train, num_val, seed, size)
        kwargs.setdefault(
            'data_prefix',
            dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
        )
        super().__init__(data_root=str(folder), reduce_zero_label=reduce_zero_label, **kwargs)
