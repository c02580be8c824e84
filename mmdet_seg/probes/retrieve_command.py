"""Command line of ``tools/probe.py retrieve``."""

import argparse

from mmdet_seg.probes.encoder_options import add_encoder_arguments
from mmdet_seg.probes.run_options import (
    add_data_argument,
    add_final_norm_argument,
    add_going_on_arguments,
    add_run_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_encoder_arguments(parser)
    add_data_argument(parser, 'small images')
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
    add_final_norm_argument(rules, 'where it has one')
    add_going_on_arguments(add_run_arguments(parser, 'retrieve'))


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    from mmdet_seg.probes.quantized_comparison import compared
    from mmdet_seg.probes.retrieve_run import RetrieveRun
    from mmdet_seg.probes.retrieve_state import has_state

    return compared('retrieve', lambda args: RetrieveRun(args).run(), args, has_state)
