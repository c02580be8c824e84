"""The images and labels of a segmentation probe: any ``--data`` under a protocol's rules.

Shapes: B images, (H, W) pixels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from torch import Tensor
from torch.utils.data import DataLoader

from mmdet_seg.datasets.loader_processes import leave_signals
from mmdet_seg.datasets.position_sampler import Draw, PositionSampler
from mmdet_seg.datasets.seeded_dataset import SeededDataset, unreadable
from mmdet_seg.engine.preflight import check_data
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.loading import loaded
from mmdet_seg.probes.protocols import Protocol
from mmdet_seg.probes.upsampled_loss import IGNORED
from mmdet_seg.segmentors import SegDataPreProcessor

_RECIPE = 'linear_internvit'
_OPTIONS = ('train_dataloader', 'val_dataloader')
_FULL_ARCH = '6b-224px'  # of any encoder with published weights: the data's published crop


def data_config(
    name: str,
    protocol: Protocol,
    patch_size: int,
    *,
    short: bool = False,
    options: dict[str, Any] | None = None,
) -> Config:
    """A config whose data follow a protocol.

    Args:
        name: Of the data, or a prepared folder.
        protocol: With the crop that is wanted.
        patch_size: Of the encoder; test images are made multiples of it where the protocol says.
        short: Keep the data's own gentle resizing, which goes with few steps.
        options: Dotted keys to values, as in ``tools/train.py``.

    Raises:
        FileNotFoundError: The data are not there.
        ValueError: No such data, or an option that the config does not take.
    """
    folder = Path(name).is_dir()
    cfg = load_recipe(_RECIPE, arch=_FULL_ARCH if folder and not short else None, data=name)
    crop, side = (protocol.crop, protocol.crop), protocol.short_side or protocol.crop
    for step in cfg.train_dataloader.dataset.pipeline:
        kind = _kind(step)
        if kind == 'RandomResize' and not short:
            step.scale, step.ratio_range = (4 * side, side), (0.5, 2.0)
        elif kind == 'RandomCrop':
            step.crop_size = crop
    steps = cfg.train_dataloader.dataset.pipeline
    colours = [s for s in steps if _kind(s) == 'PhotoMetricDistortion']
    if protocol.photometric and not colours:
        steps.insert(len(steps) - 1, dict(type='PhotoMetricDistortion'))
    elif not protocol.photometric:
        cfg.train_dataloader.dataset.pipeline = [s for s in steps if s not in colours]
    if not short:
        _set_test(cfg, protocol, patch_size)
    cfg.crop_size = crop
    if options:
        _merge(cfg, options)
    check_data(cfg, ('train', 'val'))
    return cfg


def find_data(name: str, options: dict[str, Any] | None = None) -> None:
    """Whether the data are there: quick, and needs no encoder.

    Args:
        name: Of the data, or a prepared folder.
        options: As for :func:`data_config`.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: No such data.
    """
    cfg = load_recipe(_RECIPE, data=name)
    if options:
        _merge(cfg, options)
    check_data(cfg, ('train', 'val'))


def _set_test(cfg: Config, protocol: Protocol, patch_size: int) -> None:
    """Test images with the short side of the protocol."""
    side = protocol.short_side or protocol.crop
    old = cfg.val_dataloader.dataset.pipeline
    steps = [s for s in old if 'Resize' not in _kind(s)]
    if protocol.test_multiple:
        resize = [
            dict(type='ResizeShortestEdge', scale=side, max_size=1 << 14),
            dict(type='ResizeToMultiple', size_divisor=patch_size),
        ]
    else:
        resize = [dict(type='Resize', scale=(4 * side, side), keep_ratio=True)]
    cfg.val_dataloader.dataset.pipeline = [steps[0], *resize, *steps[1:]]


def _merge(cfg: Config, options: dict[str, Any]) -> None:
    for key in options:
        if key.partition('.')[0] not in _OPTIONS:
            raise ValueError(
                f'--cfg-options {key}: only the data can be changed here, so that keys begin with '
                f'{" or ".join(_OPTIONS)}.'
            )
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        text = ' '.join(f'{k}={v}' for k, v in options.items())
        raise ValueError(f'--cfg-options {text}: {error}') from error


def _kind(step: dict) -> str:
    kind = step['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__


@dataclass(frozen=True)
class TestImage:
    """One validation image.

    Attributes:
        pixels: (3, H, W) normalised, at the size that it is tested at.
        label: At the image's own size, int64.
        path: Of the image.
    """

    pixels: Tensor
    label: Tensor
    path: str


class SegmentData:
    """Training batches and validation images of one data set, normalised for an encoder.

    Args:
        name: As the user typed it.
        cfg: From :func:`data_config`.
        encoder: Its mean, standard deviation and patch.
        protocol: Crop and padding.
        seed: Of the order and the augmentations.
        workers: Processes that load; 0 loads in this one.

    Attributes:
        classes: Names.
        palette: (C, 3) list.
        root: Folder.
        num_train: Images.
        num_val: Images.
    """

    def __init__(
        self,
        name: str,
        cfg: Config,
        encoder: FrozenEncoder,
        protocol: Protocol,
        *,
        seed: int = 0,
        workers: int = 2,
    ) -> None:
        init_default_scope('mmseg')
        self.name, self.protocol, self.seed, self.workers = name, protocol, seed, workers
        self.patch_size = encoder.patch_size
        self._train = SeededDataset(_build(cfg.train_dataloader.dataset), seed)
        self._val = SeededDataset(_build(cfg.val_dataloader.dataset), seed)
        meta = self._train.metainfo
        self.classes = [str(x) for x in meta['classes']]
        self.palette = [list(x) for x in meta['palette']]
        self.root = str(self._train.data_root or '')
        self.num_train, self.num_val = len(self._train), len(self._val)
        for number, what in ((self.num_train, 'train'), (self.num_val, 'validate')):
            if not number:
                raise ValueError(f'--data {name} holds no image to {what} on ({self.root}).')
        self._preprocess = SegDataPreProcessor(
            mean=list(encoder.mean),
            std=list(encoder.std),
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=IGNORED,
            size=(protocol.crop, protocol.crop),
        )

    def batches(self, start: int, batch: int) -> Iterator[tuple]:
        """Training batches from step ``start`` on, without end: what a step sees is its own.

        Yields:
            Images (B, 3, H, W), normalised, and labels (B, H, W) int64.

        Raises:
            ValueError: An image that cannot be read.
        """
        sampler = PositionSampler(self._train, True, self.seed)
        sampler.start = start * batch
        loader = DataLoader(
            self._train,
            batch_size=batch,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=pseudo_collate,
            persistent_workers=self.workers > 0,
            worker_init_fn=leave_signals,
        )
        for raw in loaded(loader):
            yield self._tensors(raw)

    def train_files(self) -> list[str]:
        """Training images in order, relative to the root, with their sizes in bytes."""
        infos = [self._train.get_data_info(i) for i in range(self.num_train)]
        paths = [(Path(i['img_path']), Path(i['seg_map_path'])) for i in infos]
        return [
            f'{os.path.relpath(path, self.root or ".")} {path.stat().st_size} {mask.stat().st_size}'
            for path, mask in paths
        ]

    def some_files(self, count: int) -> list[str]:
        """Validation images, evenly spread: at most ``count`` paths."""
        chosen = sorted({i * self.num_val // count for i in range(count)})
        return [str(self._val.get_data_info(i)['img_path']) for i in chosen]

    def view(self, position: int) -> tuple[Tensor, Tensor]:
        """One augmented training view, a function of its position: (3, H, W), (H, W) int64."""
        draw = Draw(position % self.num_train, position)
        images, labels = self._tensors(pseudo_collate([self._train[draw]]))
        return images[0], labels[0]

    def _tensors(self, raw: dict) -> tuple[Tensor, Tensor]:
        _refuse_broken(raw['data_samples'])
        data = self._preprocess(raw, training=True)
        labels = torch.cat([s.gt_sem_seg.data for s in data['data_samples']])
        return pad_to_patch(data['inputs'], self.patch_size, self.protocol.padding), labels.long()

    def validation(self, indices: list[int] | None = None) -> Iterator[TestImage]:
        """Validation images in order, or some of them."""
        chosen = list(range(self.num_val)) if indices is None else indices
        loader = DataLoader(
            self._val,
            batch_size=1,
            sampler=chosen,
            num_workers=min(self.workers, len(chosen)),
            collate_fn=pseudo_collate,
            worker_init_fn=leave_signals,
        )
        for raw in loaded(loader):
            _refuse_broken(raw['data_samples'])
            [sample] = raw['data_samples']
            mean, std = self._preprocess.mean, self._preprocess.std
            pixels = (raw['inputs'][0].flip(0).float() - mean) / std  # stored as BGR
            yield TestImage(pixels, sample.gt_sem_seg.data[0].long(), str(sample.img_path))


def pad_to_patch(images: Tensor, patch_size: int, padding: str) -> Tensor:
    """Zeros around images whose sides are no multiples of the patch: (B, 3, H, W).

    ``centre`` puts them on all sides, as DINOv2's encoder does; else to the right and below.
    """
    bottom, right = (-side % patch_size for side in images.shape[2:])
    if not bottom and not right:
        return images
    top, left = (bottom // 2, right // 2) if padding == 'centre' else (0, 0)
    return F.pad(images, (left, right - left, top, bottom - top))


def _build(config: dict) -> Any:
    dataset = DATASETS.build(config)
    dataset.full_init()
    return dataset


def _refuse_broken(samples: list) -> None:
    for file, why in unreadable(samples):
        raise ValueError(f'{file} cannot be used ({why}): mend or remove it.')
