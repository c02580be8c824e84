"""The job ``show``: pictures of what patches and attention look like in one's own images.

Shapes: D channels, (h, w) grid.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from mmdet_seg.engine.images import find_images, output_names, read_image
from mmdet_seg.probes.encoder_options import check_comparison, encoder_from
from mmdet_seg.probes.feature_pictures import Shown, paint, read_features, write_pictures
from mmdet_seg.probes.quantized_comparison import SUFFIX
from mmdet_seg.probes.run_facts import hush
from mmdet_seg.probes.segment_grid import parse_layers


def show(args: argparse.Namespace) -> int:
    """Write the pictures; with ``--quantize`` also those of the encoder as it is, and the change.

    Args:
        args: Of the command line.

    Returns:
        Exit status: 0, or 1 where some images could not be read.

    Raises:
        ValueError: No image can be read, or a layer that there is not.
        FileNotFoundError: No such image or encoder.
    """
    hush()
    check_comparison(args)
    paths = find_images(args.images)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    found, layers, broken = _read(args, list(zip(paths, output_names(paths), strict=True)))
    if not found:
        raise ValueError(f'None of {len(paths)} images could be read.')
    if args.quantize and args.compare_quantized is not False:
        left = [path for path in paths if path not in broken]
        kept = [(path, shown.name) for path, shown in zip(left, found, strict=True)]
        plain = copy.copy(args)
        plain.quantize = plain.compare_quantized = None
        before, _, _ = _read(plain, kept)
        print(changes(found, before, args.quantize))
        for one, other in zip(found, before, strict=True):
            one.title, other.title, other.name = args.quantize, 'as it is', other.name + SUFFIX
        # Side by side, and coloured together: equal colours are equal features.
        found = [shown for pair in zip(found, before, strict=True) for shown in pair]
    paint(found, foreground=args.foreground)
    write_pictures(found, out)
    number = len(paths) - len(broken)
    print(f'{number} of {len(paths)} images, layers {", ".join(map(str, layers))}.')
    print(f'Look at {out / "sheet.png"}')
    return 1 if broken else 0


def changes(found: Sequence[Shown], before: Sequence[Shown], how: str) -> str:
    """What quantisation changed in the patches of these images, a line for every layer."""
    lines = [f'| layer | features change by (rms), {how} | cosine |', '|---|---:|---:|']
    for layer in before[0].maps:
        a, b = (
            torch.cat([x.maps[layer].flatten(1).T.float() for x in shown])
            for shown in (found, before)
        )
        rms = (a - b).square().mean().sqrt() / b.square().mean().sqrt().clamp_min(1e-12)
        cosine = F.cosine_similarity(a, b, dim=1).mean()
        lines.append(f'| {layer} | {100 * rms:.2f} % | {cosine:.5f} |')
    return '\n'.join(lines)


def _read(
    args: argparse.Namespace, paths: list[tuple[Path, str]]
) -> tuple[list[Shown], tuple[int, ...], list[Path]]:
    """Features of the images, the layers, and what could not be read."""
    encoder = encoder_from(args)
    text = ','.join(args.layers) if args.layers else f'even:{min(4, encoder.depth)}'
    layers = tuple(dict.fromkeys(n for taps in parse_layers(text, encoder) for n in taps))
    broken: list[Path] = []
    found = read_features(
        encoder,
        _readable(paths, broken),
        layers,
        size=args.size,
        attention=not args.no_attention,
    )
    return found, layers, broken


def _readable(paths: list[tuple[Path, str]], broken: list[Path]) -> Iterator:
    """Names and pixels; what cannot be read is named on standard error and put into ``broken``."""
    console = Console(stderr=True)
    quiet = len(paths) < 2 or not console.is_terminal
    for path, name in track(paths, 'show', console=console, disable=quiet):
        try:
            image = read_image(path)
        except ValueError as error:
            print(f'probe.py: {error}', file=sys.stderr)
            broken.append(path)
            continue
        yield name, image
