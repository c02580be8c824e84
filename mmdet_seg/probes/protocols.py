"""Recipes of published linear segmentation probes, by name.

Figures can be put beside others' only where the recipe is theirs; what a run changes is listed by
:func:`changes` and kept in its results.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

BN_EPS, BN_MOMENTUM = 1e-5, 0.1  # PyTorch's, in all of them
ADAM_BETAS = (0.9, 0.999)
SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Protocol:
    """How a linear probe is trained and tested.

    Attributes:
        name: Of the recipe.
        source: Where it is from.
        layers: Block counted from the last, -1.
        layers_6b: Block counted from 0 where the encoder has 48 of them; None as ``layers``.
        final_norm: Features go through the encoder's own last norm.
        norm: ``bn`` (over the whole batch; the authors' SyncBN), ``ln`` or ``none``.
        dropout: Share of the channels that dropout2d takes out before the norm.
        init_std: Of the normal distribution that the weights start from; biases start at 0.
        optimizer: ``adamw`` or ``sgd``.
        lr: Rate after the warm-up.
        weight_decay: Of all parameters, biases and norms too.
        schedule: ``poly`` (linear to 0, the warm-up a factor on it, as in mmcv 1), ``poly_after``
            (linear to 0 after the warm-up, as in mmengine) or ``cosine`` (one cycle, DINOv3's).
        iters: Steps.
        warmup: Of them, steps of linear warm-up from ``warmup_ratio``.
        warmup_ratio: Share of the rate that the warm-up starts from.
        batch: Images of a step.
        crop: Side in pixels for training.
        short_side: Pixels that the short side of an image is resized to, times 0.5 to 2 in
            training; None is ``crop``.
        photometric: Colours are distorted.
        padding: How a side that is no multiple of the patch becomes one: ``centre`` pads the
            window with zeros on all sides, ``multiple`` takes the next larger multiple as crop.
        test: ``slide`` or ``whole``.
        stride: Pixels between windows.
        test_multiple: Test images are resized to multiples of the patch.
        all_pixels: The loss is divided by all pixels, ignored ones too (mmseg's default).
        short_lr: Rate where the run is short; None as ``lr``.
    """

    name: str
    source: str
    layers: int = -1
    layers_6b: int | None = None
    final_norm: bool = False
    norm: str = 'bn'
    dropout: float = 0.0
    init_std: float = 0.01
    optimizer: str = 'adamw'
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = 'poly'
    iters: int = 40000
    warmup: int = 1500
    warmup_ratio: float = 1e-6
    batch: int = 16
    crop: int = 512
    short_side: int | None = None
    photometric: bool = True
    padding: str = 'multiple'
    test: str = 'slide'
    stride: int = 341
    test_multiple: bool = False
    all_pixels: bool = True
    short_lr: float | None = None


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            'internvit',
            'OpenGVLab/InternVL segmentation, linear_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5',
            layers_6b=44,
            lr=4e-5,
            iters=80000,
            crop=504,
            stride=322,
            test_multiple=True,
            short_lr=1e-3,
        ),
        # notebooks/semantic_segmentation.ipynb, which builds the published segmentors, leaves
        # get_intermediate_layers(norm=True) as it is.
        Protocol(
            'dinov2',
            'facebookresearch/dinov2, dinov2_vit*14_ade20k_linear_config.py',
            final_norm=True,
            weight_decay=1e-4,
            padding='centre',
        ),
        Protocol(
            'dinov3',
            'facebookresearch/dinov3, dinov3/eval/segmentation, config-ade20k-linear-training.yaml',
            final_norm=True,
            dropout=0.1,
            weight_decay=1e-3,
            schedule='cosine',
        ),
        # radio/radio_model.py takes the ViT's last norm out (`model_norm` is false).
        Protocol(
            'radio',
            'NVlabs/RADIO, mmseg/configs/radio/radio_linear_8xb2-80k_ade20k-512x512.py',
            schedule='poly_after',
            iters=80000,
            crop=518,
            short_side=512,
            test='whole',
        ),
    )
}
# What --data scenes brings: lengths for two cores. The rules stay.
SHORT = dict(iters=400, warmup=20, batch=8, crop=224, photometric=False, test='whole')


def get_protocol(name: str) -> Protocol:
    """A recipe by name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f'--protocol {name}: there are {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]


def rate_factor(protocol: Protocol, step: int) -> float:
    """Share of the rate in a step, counted from 0.

    Source: mmcv 1 (``poly`` with ``warmup='linear'``); mmengine (``LinearLR`` to step 1500, then
    ``PolyLR``, as in RADIO's config); facebookresearch/dinov3,
    dinov3/eval/segmentation/schedulers.py (``WarmupOneCycleLR`` with ``pct_start`` 0) and train.py,
    whose schedule does not move after the first step.
    """
    if protocol.schedule == 'cosine':
        step = max(step - 1, 0)
    T, W = protocol.iters, min(protocol.warmup, protocol.iters)
    rest = 1 - step / T
    if step < W and protocol.schedule != 'poly_after':
        return rest * (1 - (1 - step / W) * (1 - protocol.warmup_ratio))
    if step < W:
        return protocol.warmup_ratio + (1 - protocol.warmup_ratio) * step / max(W - 1, 1)
    if protocol.schedule == 'cosine':
        return 0.5 * (1 + math.cos(math.pi * (step + 1) / T))
    if protocol.schedule == 'poly_after':
        return 1 - (step - W) / max(T - W - 1, 1)
    return rest


def changes(ours: Protocol, published: Protocol) -> list[str]:
    """What differs, as ``field ours (the protocol's: theirs)``."""
    return [
        f'{f.name} {_text(getattr(ours, f.name))} '
        f"(the protocol's: {_text(getattr(published, f.name))})"
        for f in fields(Protocol)
        if getattr(ours, f.name) != getattr(published, f.name)
    ]


def _text(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)
