"""Detectors on one encoder beside mmdet's own with ResNet-50: images per second, in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmdet_seg.engine.encoder_config import encoder_config
from mmdet_seg.engine.mask_benchmark import count, encoder_of
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.mmdet_door import DetDataSample
from mmdet_seg.registry import MODELS

# Every recipe, and mmdet's own config of the same method with the backbone that all know.
_MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
STOCK = {
    'mask_rcnn_internvit': _MASK_RCNN,
    'mask_rcnn_adapter_internvit': _MASK_RCNN,
    'cascade_mask_rcnn_internvit': 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'dino_internvit': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'eomt_internvit_panoptic': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
}


@dataclass(frozen=True)
class Row:
    """One detector.

    Attributes:
        config: Its name, ours or mmdet's.
        head: Parameters of everything but the encoder, or but ResNet-50.
        total: Parameters of all.
        seconds: For one image, median.
        rest: Of these, those outside of ``backbone``; an adapter belongs to the backbone, the last
            blocks of a mask transformer do not.
        ratio: Seconds of mmdet's own over these, median over the rounds.
    """

    config: str
    head: int
    total: int
    seconds: float
    rest: float
    ratio: float


def run(
    configs: Sequence[str] = tuple(STOCK),
    arch: str = '300m-448px-v2-5',
    size: int = 448,
    rounds: int = 3,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Detect in one random image at a time; the detectors take turns in each round.

    Time is taken from the image on the device to boxes and masks at its size, in float32. Random
    weights score no box well, so the score that a box needs is 0 for all: 100 boxes are found, and
    100 masks made, in every image.

    Args:
        configs: Of :data:`STOCK`; mmdet's of each is measured too.
        arch: Of the encoder.
        size: Side of the image in pixels.
        rounds: Measured after one that is not.
        progress: Is told what comes.

    Raises:
        ValueError: A config without a peer.
    """
    for name in configs:
        if name not in STOCK:
            raise ValueError(
                f'--configs {name}: mmdet has no peer for it here; there are {", ".join(STOCK)}.'
            )
    init_default_scope('mmdet')
    names = [n for config in configs for n in (STOCK[config], config)]
    models = {name: build(name, arch) for name in dict.fromkeys(names)}
    x = torch.randn(1, 3, size, size)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for i in range(rounds + 1):
        progress(f'round {i} of {rounds}, {size} x {size}, {len(models)} detectors')
        for name, model in models.items():
            seconds = timed(model, x)
            if i:
                taken[name].append(seconds)
    rows = []
    for name, model in models.items():
        peer = taken[STOCK.get(name, name)]
        total = count(model)
        rows.append(
            Row(
                name,
                total - count(encoder_of(model)),
                total,
                median(whole for whole, _ in taken[name]),
                median(rest for _, rest in taken[name]),
                median(p[0] / own[0] for p, own in zip(peer, taken[name], strict=True)),
            )
        )
    return rows


def build(name: str, arch: str) -> nn.Module:
    """A detector of COCO's classes with random weights, all of it in float32."""
    if '::' in name:
        cfg = get_config(name).model
        cfg.backbone.init_cfg = None
    else:
        cfg = load_recipe(name, arch=arch, data='coco').model
        encoder_config(cfg).update(init_cfg=None, dtype='fp32')
    if 'rcnn' in cfg.get('test_cfg', {}):
        cfg.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg)).eval()


@torch.no_grad()
def detect(model: nn.Module, x: Tensor) -> DetDataSample:
    """Boxes, and masks of those that make them, of an image (1, 3, H, W)."""
    side = tuple(x.shape[2:])
    sample = DetDataSample(
        metainfo=dict(
            img_shape=side,
            ori_shape=side,
            pad_shape=side,
            batch_input_shape=side,
            scale_factor=(1.0, 1.0),
        )
    )
    return model.predict(x, [sample])[0]


def timed(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds of one image, and of these those that its backbone did not take."""
    marks: list[float] = []

    def mark(*_: object) -> None:
        marks.append(time.perf_counter())

    handles = [
        model.backbone.register_forward_pre_hook(mark),
        model.backbone.register_forward_hook(mark),
    ]
    start = time.perf_counter()
    detect(model, x)
    seconds = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    return seconds, seconds - (marks[1] - marks[0])


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| config | parameters beside the encoder | in all | images/s | outside of the backbone, s '
        "| speed over mmdet's own |",
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        ratio = '' if '::' in row.config else f'{row.ratio:.2f} x'
        lines.append(
            f'| `{row.config}` | {row.head / 1e6:.1f} M | {row.total / 1e6:.1f} M | '
            f'{1 / row.seconds:.3f} | {row.rest:.2f} | {ratio} |'
        )
    return '\n'.join(lines)
