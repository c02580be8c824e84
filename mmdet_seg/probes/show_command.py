"""Command line of ``tools/probe.py show``."""

import argparse

from mmdet_seg.probes.encoder_options import add_encoder_arguments
from mmdet_seg.probes.run_options import add_device_argument

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
        metavar='LIST',
        nargs='+',
        help='blocks from 0: 2,3,5, all, even:4, last:4, -1 (default: even:4)',
    )
    parser.add_argument(
        '--size', metavar='PIXELS', type=int, help="short side (default: the encoder's own)"
    )
    parser.add_argument(
        '--foreground', action='store_true', help='colours for the foreground only, as DINOv2 does'
    )
    parser.add_argument('--no-attention', action='store_true', help='components only')
    add_device_argument(parser)


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    _take_encoder(args)
    from mmdet_seg.probes.show_run import show

    return show(args)


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
