"""Command line of ``tools/probe.py show``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mmdet_seg.probes.encoder_options import add_encoder_arguments

_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = '%(prog)s [ENCODER] IMAGE... --out DIR [options]'
    parser.add_argument(
        'images',
        metavar='IMAGE',
        nargs='+',
        help='files, folders or globs; without --encoder the first word is the encoder',
    )
    add_encoder_arguments(parser, positional=False, required=False)
    parser.add_argument('--out', metavar='DIR', required=True, help='folder to write to')
    parser.add_argument(
        '--layers',
        metavar='N',
        nargs='+',
        type=int,
        help='blocks, from 0 or negative from the last (default: four, evenly spread)',
    )
    parser.add_argument(
        '--size', metavar='PIXELS', type=int, help="short side (default: the encoder's own)"
    )
    parser.add_argument(
        '--foreground', action='store_true', help='colours for the foreground only, as DINOv2 does'
    )
    parser.add_argument('--no-attention', action='store_true', help='components only')
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1; default: the best')


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    _take_encoder(args)
    from mmdet_seg.backbones.variants import even_taps
    from mmdet_seg.engine.images import find_images, output_names
    from mmdet_seg.probes.encoder_options import encoder_from
    from mmdet_seg.probes.feature_pictures import look, write_pictures

    paths = find_images(args.images)
    encoder = encoder_from(args)
    layers = encoder.check_layers(args.layers or even_taps(encoder.depth, min(4, encoder.depth)))
    broken: list[Path] = []
    found = look(
        encoder,
        _readable(list(zip(paths, output_names(paths), strict=True)), broken),
        layers,
        size=args.size,
        foreground=args.foreground,
        attention=not args.no_attention,
    )
    if not found:
        raise ValueError(f'None of {len(paths)} images could be read.')
    out = Path(args.out)
    write_pictures(found, out)
    print(f'{len(found)} of {len(paths)} images, layers {", ".join(map(str, layers))}.')
    print(f'Look at {out / "sheet.png"}')
    return 1 if broken else 0


def _take_encoder(args: argparse.Namespace) -> None:
    """Where ``--encoder`` is not given, the first word says it.

    Raises:
        ValueError: It is an image, or there is no image after it.
    """
    if args.encoder:
        return
    first, *images = args.images
    if not images or first.lower().endswith(_IMAGES):
        from mmdet_seg.probes.frozen_encoder import published_names

        raise ValueError(
            'Which encoder? Put it before the images or give --encoder: a checkpoint, hub id or '
            f'one of {", ".join(published_names())}.'
        )
    args.encoder, args.images = first, images


def _readable(paths: list[tuple[Path, str]], broken: list[Path]) -> Iterator:
    """Names and pixels; what cannot be read is named on standard error and put into ``broken``."""
    import sys

    from rich.console import Console
    from rich.progress import track

    from mmdet_seg.engine.images import read_image

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
