"""Fixed training views of a segmentation probe, and the store of their features."""

import hashlib
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from mmdet_seg.probes.feature_build import build_store
from mmdet_seg.probes.feature_store import FeatureStore
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.progress import Progress
from mmdet_seg.probes.segment_data import SegmentData

AUTO = 'auto'
_FOLDER = 'work_dirs/feature_store'
_AT_ONCE = 4  # views that the encoder sees together


class FixedViews:
    """View i is image ``i mod n`` with the augmentation of draw i, every time it is asked for.

    Args:
        data: The images.
        views: Of each image.
    """

    def __init__(self, data: SegmentData, views: int) -> None:
        if views < 1:
            raise ValueError(f'--store-views {views} is not a whole number of at least 1.')
        self.data, self.views = data, views

    def __len__(self) -> int:
        return self.views * self.data.num_train

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data.view(index)


def open_segment_store(
    folder: str,
    encoder: FrozenEncoder,
    data: SegmentData,
    cfg: Config,
    layers: tuple[int, ...],
    *,
    views: int,
    dtype: str,
) -> FeatureStore:
    """The store of these views: opened where it is complete, made or gone on with where not.

    Args:
        folder: Where stores lie; ``auto`` is ``work_dirs/feature_store``.
        encoder: Frozen.
        data: Its training images; its protocol says crop and final norm.
        cfg: That the data were made from: the augmentations are part of the key.
        layers: Blocks.
        views: Of each image.
        dtype: On disk.

    Raises:
        ValueError: It does not fit on the disk, and what else
            :func:`mmdet_seg.probes.feature_build.build_store` refuses.
    """
    fixed, protocol = FixedViews(data, views), data.protocol
    progress, before = Progress('features', len(fixed)), [0]

    def say(done: int, total: int) -> None:
        progress.total = total
        progress.add(done - before[0])
        before[0] = done

    store = build_store(
        encoder,
        fixed,
        views_key(data, cfg, views),
        layers,
        Path(_FOLDER if folder == AUTO else folder),
        dtype=dtype,
        final_norm=protocol.final_norm,
        batch_size=_AT_ONCE,
        progress=say,
    )
    progress.close()
    return store


def views_key(data: SegmentData, cfg: Config, views: int) -> dict[str, Any]:
    """What makes the views these; any of it changes the key."""
    names, protocol = '\n'.join(data.train_files()), data.protocol
    return {
        'job': 'segment',
        'data': data.name,
        'files': hashlib.sha256(names.encode()).hexdigest(),
        'images': data.num_train,
        'views': views,
        'seed': data.seed,
        'crop': protocol.crop,
        'padding': protocol.padding,
        'pipeline': str(cfg.train_dataloader.dataset.pipeline),
        'classes': len(data.classes),
    }
