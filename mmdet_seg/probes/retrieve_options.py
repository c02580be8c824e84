"""From what a person types to what ``retrieve`` tries and the memory that it fills."""

import argparse
from dataclasses import replace
from typing import NamedTuple

from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.protocols import Protocol
from mmdet_seg.probes.run_options import check_workers
from mmdet_seg.probes.segment_grid import parse_numbers

HUMMINGBIRD = Protocol(
    'hummingbird',
    'in the manner of arXiv 2306.01667 and vpariza/open-hummingbird-eval',
    crop=512,
    photometric=False,
    test='whole',
)
_SIZE, _SHORT_SIZE = 102400, 20480
_SHORT_CROP = 224


class Options(NamedTuple):
    """What needs no encoder.

    Attributes:
        neighbours: Numbers of them.
        temperatures: Of the votes.
        memory_size: Patches.
        short: Small images as they are.
    """

    neighbours: list[int]
    temperatures: list[float]
    memory_size: int
    short: bool


def read_options(args: argparse.Namespace) -> Options:
    """The options that can be checked before anything is opened.

    Raises:
        ValueError: One that makes no sense.
    """
    check_workers(args)
    neighbours = parse_numbers('--neighbours', args.neighbours, int)
    temperatures = parse_numbers('--temperature', args.temperature, float)
    short = args.data == 'scenes' if args.short is None else args.short
    usual = _SHORT_SIZE if short else _SIZE
    size = usual if args.memory_size is None else args.memory_size
    for option, value in (
        ('--neighbours', min(neighbours)),
        ('--temperature', min(temperatures)),
        ('--memory-size', size),
        ('--views', args.views),
        ('--crop', 1 if args.crop is None else args.crop),
    ):
        if value <= 0:
            raise ValueError(f'{option} {value} is not above 0.')
    if args.seed < 0:
        raise ValueError(f'--seed {args.seed} is below 0.')
    return Options(neighbours, temperatures, size, short)


def choose_protocol(args: argparse.Namespace, short: bool, encoder: FrozenEncoder) -> Protocol:
    """Whole images, views of the next larger multiple of the patch."""
    crop, P = args.crop or (_SHORT_CROP if short else HUMMINGBIRD.crop), encoder.patch_size
    return replace(HUMMINGBIRD, crop=-(-crop // P) * P)


def single_layers(layers: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Layers that are searched one at a time.

    Raises:
        ValueError: Several that are put together.
    """
    for several in layers:
        if len(several) > 1:
            text = '+'.join(map(str, several))
            raise ValueError(f'--layers {text}: neighbours are looked for in one layer at a time.')
    return tuple(layer for (layer,) in layers)


def choose_final_norm(asked: bool | None, encoder: FrozenEncoder) -> bool:
    """As asked for, else where the encoder has one.

    Raises:
        ValueError: It is asked for and there is none.
    """
    if asked and not encoder.has_final_norm:
        raise ValueError(f'--final-norm: {encoder.name} has no final norm; leave it out.')
    return encoder.has_final_norm if asked is None else asked
