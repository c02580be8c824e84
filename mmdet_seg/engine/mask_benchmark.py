"""Heads beside each other on one encoder: images per second and parameters, in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmdet_seg.backbones.variants import even_taps, get_arch
from mmdet_seg.engine.encoder_config import encoder_config
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS

# Their published widths, with the encoder, its precision and the input the same for all.
CONFIGS = (
    'mask2former_internvit',
    'eomt_internvit',
    'eomt_internvit_frozen',
    'upernet_adapter_internvit',
    'upernet_internvit',
    'linear_internvit',
)
# What people have without this package: mmseg's own, the ViT at the size of our encoder.
_VIT = 'mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py'
_SWIN = 'mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py'
STOCK = {
    'mmseg, Mask2Former on Swin-L': _SWIN,
    'mmseg, UPerHead on its ViT': _VIT,
    'mmseg, FCNHead on its ViT': _VIT,
}
MASK2FORMER, UPERNET, LINEAR = STOCK
PEERS = {
    'mask2former_internvit': MASK2FORMER,
    'eomt_internvit': 'mask2former_internvit',
    'eomt_internvit_frozen': 'mask2former_internvit',
    'upernet_adapter_internvit': UPERNET,
    'upernet_internvit': UPERNET,
    'linear_internvit': LINEAR,
}


@dataclass(frozen=True)
class Row:
    """One config.

    Attributes:
        config: Its name, or one of :data:`STOCK`.
        patch: Side of the encoder's patches in pixels.
        head: Parameters of everything but the encoder.
        total: Parameters of all.
        seconds: For one image, median.
        peer: What it is compared with.
        ratio: Seconds of the peer over these, median over the rounds; None without one.
    """

    config: str
    patch: int
    head: int
    total: int
    seconds: float
    peer: str | None
    ratio: float | None


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
        configs: Names; what they are compared with (:data:`PEERS`) is measured too.
        arch: Of the encoder.
        data: Whose classes are told apart, and whose form of the recipe is taken.
        size: Side of the image in pixels, a multiple of every config's patch.
        rounds: Measured after one that is not.
        progress: Is told what comes.
    """
    init_default_scope('mmseg')
    names = list(dict.fromkeys(n for c in configs for n in (*_peers(c), c)))
    models = {name: build(name, arch, data) for name in names}
    x = torch.randn(1, 3, size, size)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):
        progress(f'round {i} of {rounds}, {size} x {size}, {len(names)} models')
        for name, model in models.items():
            start = time.perf_counter()
            segment(model, x)
            if i:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, model in models.items():
        total, encoder, peer = count(model), count(encoder_of(model)), PEERS.get(name)
        pairs = list(zip(seconds.get(peer, []), seconds[name], strict=False))
        rows.append(
            Row(
                name,
                getattr(encoder_of(model), 'patch_size', 4),  # Swin's, which does not say
                total - encoder,
                total,
                median(seconds[name]),
                peer,
                median(theirs / own for theirs, own in pairs) if pairs else None,
            )
        )
    return rows


def _peers(config: str) -> list[str]:
    """What a config is compared with, and what that is compared with, the last first."""
    peer = PEERS.get(config)
    return [*_peers(peer), peer] if peer else []


def _stock(name: str, arch: str, classes: int) -> ConfigDict:
    """mmseg's own model; its ViT gets the size of an encoder of ours."""
    cfg = get_config(STOCK[name]).model
    cfg.backbone.init_cfg = None
    cfg.decode_head.num_classes = classes
    if name == MASK2FORMER:
        cfg.decode_head.loss_cls.class_weight = [1.0] * classes + [0.1]
        return cfg
    ours = get_arch(arch)
    width = ours.embed_dim
    cfg.backbone.update(
        img_size=ours.img_size,
        patch_size=ours.patch_size,
        embed_dims=width,
        num_layers=ours.depth,
        num_heads=ours.num_heads,
        mlp_ratio=int(ours.mlp_ratio),  # 4.0: floats make no sizes there
    )
    if name == LINEAR:
        cfg.neck = cfg.auxiliary_head = None
        cfg.backbone.out_indices = (ours.depth - 1,)
        cfg.decode_head = dict(
            type='FCNHead',
            in_channels=width,
            channels=width,
            in_index=0,
            num_convs=0,
            concat_input=False,
            num_classes=classes,
        )
        return cfg
    cfg.backbone.out_indices = even_taps(ours.depth, 4)
    cfg.neck.update(in_channels=[width] * 4, out_channels=width)
    cfg.decode_head.in_channels = [width] * 4
    cfg.auxiliary_head.update(in_channels=width, num_classes=classes)
    return cfg


def build(config: str, arch: str, data: str) -> nn.Module:
    """The model of a config with random weights, all of it in float32."""
    if config in STOCK:
        cfg = _stock(config, arch, load_recipe('linear_internvit', data=data).num_classes)
    else:
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
        '| config | patch | parameters beside the encoder | in all | images/s | speed |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        config = row.config if row.config in STOCK else f'`{row.config}`'
        ratio = '' if row.ratio is None else f'{row.ratio:.2f} x {row.peer}'
        lines.append(
            f'| {config} | {row.patch} | {row.head / 1e6:.1f} M | {row.total / 1e6:.1f} M | '
            f'{1 / row.seconds:.3f} | {ratio} |'
        )
    return '\n'.join(lines)
