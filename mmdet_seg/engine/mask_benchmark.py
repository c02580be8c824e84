"""Heads beside each other on one encoder: images per second and parameters, in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmdet_seg.engine.encoder_config import encoder_config
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS

# Their published widths, with the encoder, its precision and the input the same for all.
CONFIGS = (
    'mask2former_internvit',
    'eomt_internvit',
    'eomt_internvit_frozen',
    'upernet_internvit',
    'linear_internvit',
)


@dataclass(frozen=True)
class Row:
    """One config.

    Attributes:
        config: Its name.
        patch: Side of the encoder's patches in pixels.
        head: Parameters of everything but the encoder.
        total: Parameters of all.
        seconds: For one image, median.
        ratio: Seconds of the first config over these, median over the rounds.
    """

    config: str
    patch: int
    head: int
    total: int
    seconds: float
    ratio: float


def run(
    configs: Sequence[str] = CONFIGS,
    arch: str = '300m-448px-v2-5',
    data: str = 'ade20k',
    size: int = 448,
    rounds: int = 3,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Segment one random image at a time with every config; they take turns in each round.

    Time is taken from the image on the device to the classes' scores at its size, in float32.
    Random weights: speed does not depend on them.

    Args:
        configs: Names; ratios are those to the first.
        arch: Of the encoder.
        data: Whose classes are told apart, and whose form of the recipe is taken.
        size: Side of the image in pixels, a multiple of every config's patch.
        rounds: Measured after one that is not.
        progress: Is told what comes.
    """
    init_default_scope('mmseg')
    models = {name: build(name, arch, data) for name in configs}
    x = torch.randn(1, 3, size, size)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for i in range(rounds + 1):
        progress(f'round {i} of {rounds}, {size} x {size}, {len(configs)} configs')
        for name, model in models.items():
            start = time.perf_counter()
            segment(model, x)
            if i:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, model in models.items():
        total, encoder = count(model), count(encoder_of(model))
        pairs = zip(seconds[configs[0]], seconds[name], strict=True)
        rows.append(
            Row(
                name,
                encoder_of(model).patch_size,
                total - encoder,
                total,
                median(seconds[name]),
                median(first / own for first, own in pairs),
            )
        )
    return rows


def build(config: str, arch: str, data: str) -> nn.Module:
    """The model of a config with random weights, all of it in float32."""
    cfg = load_recipe(config, arch=arch, data=data).model
    cfg.encoder_dtype = None
    encoder_config(cfg).update(init_cfg=None, dtype='fp32')
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg)).eval()


@torch.no_grad()
def segment(model: nn.Module, x: Tensor) -> Tensor:
    """Scores of the classes: (1, 3, H, W) -> (1, C, H, W)."""
    side = tuple(x.shape[2:])
    return model.encode_decode(x, [dict(img_shape=side, pad_shape=side, ori_shape=side)])


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder, without an adapter around it."""
    return getattr(model.backbone, 'encoder', model.backbone)


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| config | patch | parameters beside the encoder | in all | images/s '
        f'| speed over {rows[0].config} |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        lines.append(
            f'| {row.config} | {row.patch} | {row.head / 1e6:.1f} M | {row.total / 1e6:.1f} M | '
            f'{1 / row.seconds:.3f} | {row.ratio:.2f} x |'
        )
    return '\n'.join(lines)
