"""Command line of ``tools/probe.py retrieve``."""

import argparse

from mmdet_seg.probes.encoder_options import add_encoder_arguments
from mmdet_seg.probes.own_images import add_image_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_encoder_arguments(parser)
    add = parser.add_argument
    add(
        '--data',
        metavar='NAME',
        default='scenes',
        help='scenes (small images), ade20k, ..., or a folder that prepare.py check has seen',
    )
    grid = parser.add_argument_group('what is tried: all combinations, one pass of the encoder')
    add = grid.add_argument
    add(
        '--layers',
        metavar='LIST',
        default='last:1',
        help='blocks from 0: 2,3,5, all, even:4, last:4 (default: the last)',
    )
    add('--neighbours', metavar='LIST', default='30', help='that have a vote (default: 30)')
    add('--temperature', metavar='LIST', default='0.02', help='of the votes (default: 0.02)')
    memory = parser.add_argument_group('the memory')
    add = memory.add_argument
    add(
        '--memory-size',
        type=int,
        metavar='N',
        help='patches, rare classes first (default: 102400, with small images 20480)',
    )
    add('--views', type=int, default=1, metavar='N', help='of each training image (default: 1)')
    add('--seed', type=int, default=0, metavar='N', help='of views and patches (default: 0)')
    add(
        '--index',
        choices=('torch', 'faiss', 'ivf'),
        default='torch',
        help='torch and faiss are exact, ivf is approximate and says how good (default: torch)',
    )
    rules = parser.add_argument_group('images')
    add = rules.add_argument
    add('--crop', type=int, metavar='PIXELS', help='side of a view, short side of a test image')
    add(
        '--short',
        action=argparse.BooleanOptionalAction,
        help='small images as they are, views of 224, a smaller memory (default with scenes)',
    )
    add(
        '--final-norm',
        action=argparse.BooleanOptionalAction,
        help="features after the encoder's own last norm (default: where it has one)",
    )
    run = parser.add_argument_group('the run')
    add = run.add_argument
    add('--out', metavar='DIR', help='default: work_dirs/probe_retrieve/TIME')
    add(
        '--resume',
        nargs='?',
        const='',
        metavar='DIR',
        help='go on with the newest interrupted run, or the one in DIR; other options as then',
    )
    add('--workers', type=int, default=2, metavar='N', help='processes that load (default: 2)')
    add('--device', metavar='NAME', help='cpu, cuda, cuda:1; default: the best')
    add('--pictures', type=int, default=3, metavar='N', help='best and worst images (default: 3)')
    add_image_argument(run)
    add('--cfg-options', nargs='+', metavar='KEY=VALUE', help='of the data, as in train.py')


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    from mmdet_seg.probes.retrieve_run import RetrieveRun

    return RetrieveRun(args).run()
