"""Sliding windows beside mmseg's own loop: the same model, weights and images, in one run."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.models import EncoderDecoder as StockEncoderDecoder
from mmseg.structures import SegDataSample
from torch import nn

from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS
from mmdet_seg.segmentors.sliding_windows import windows


@dataclass(frozen=True)
class Row:
    """One image size.

    Attributes:
        size: Height and width of the test image, pixels.
        original: Height and width that labels are wanted at.
        windows: Windows of one image.
        ours: Seconds per image, median.
        stock: Seconds per image of mmseg's loop and postprocessing, median.
        ratio: Stock over ours, median over the rounds.
        difference: ``max|a - b| / max|b|`` of the logits.
        labels_differ: Pixels whose label differs.
    """

    size: tuple[int, int]
    original: tuple[int, int]
    windows: int
    ours: float
    stock: float
    ratio: float
    difference: float
    labels_differ: int


def run(
    config: str = 'linear_internvit',
    arch: str = '300m-448px-v2-5',
    sizes: Sequence[tuple[int, int]] = ((504, 672), (1008, 1344)),
    rounds: int = 3,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Segment random images with the published windows (504, stride 322, 150 classes).

    The two take turns. Random weights: speed does not depend on them.
    """
    cfg = load_recipe(config, arch=arch, data='ade20k').model
    cfg.backbone.pop('init_cfg', None)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    ours = revert_sync_batchnorm(MODELS.build(cfg)).eval()
    ours.test_cfg.keep_logits = True  # mmseg always keeps them
    nn.init.normal_(ours.decode_head.conv_seg.weight)
    stock = stock_twin(ours)
    return [_measure(ours, stock, size, rounds, progress) for size in sizes]


def stock_twin(ours: nn.Module) -> StockEncoderDecoder:
    """mmseg's own segmentor around the very same modules."""
    stock = copy.copy(ours)
    stock.__class__ = StockEncoderDecoder
    return stock


@torch.no_grad()
def _measure(
    ours: nn.Module, stock: nn.Module, size: tuple[int, int], rounds: int, progress: Callable
) -> Row:
    original = tuple(round(side * 1.27) for side in size)  # tests shrink to a short side of 504
    x = torch.randn(1, 3, *size)
    count = len(windows(size, tuple(ours.test_cfg.crop_size), tuple(ours.test_cfg.stride)))
    progress(f'{size[0]} x {size[1]}, {count} windows: {rounds} rounds')

    def predict(model: nn.Module) -> SegDataSample:
        meta = dict(ori_shape=original, img_shape=size, pad_shape=size)
        return model.predict(x, [SegDataSample(metainfo=meta)])[0]

    a, b = predict(ours), predict(stock)
    seconds: dict[str, list[float]] = {'ours': [], 'stock': []}
    for _ in range(rounds):
        for name, model in (('ours', ours), ('stock', stock)):
            start = time.perf_counter()
            predict(model)
            seconds[name].append(time.perf_counter() - start)
    mine, other = a.seg_logits.data, b.seg_logits.data
    return Row(
        size,
        original,
        count,
        median(seconds['ours']),
        median(seconds['stock']),
        median(s / o for s, o in zip(seconds['stock'], seconds['ours'], strict=True)),
        ((mine - other).abs().max() / other.abs().max()).item(),
        int((a.pred_sem_seg.data != b.pred_sem_seg.data).sum()),
    )


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| image | labels at | windows | ours, s | mmseg, s | ours is | logits differ | labels |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        lines.append(
            f'| {row.size[0]} x {row.size[1]} | {row.original[0]} x {row.original[1]} | '
            f'{row.windows} | {row.ours:.2f} | {row.stock:.2f} | {row.ratio:.2f} x | '
            f'{row.difference:.0e} | {row.labels_differ} |'
        )
    return '\n'.join(lines)
