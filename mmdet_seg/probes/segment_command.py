"""Command line of ``tools/probe.py segment``."""

import argparse

from mmdet_seg.probes.encoder_options import add_encoder_arguments
from mmdet_seg.probes.protocols import PROTOCOLS
from mmdet_seg.probes.run_options import (
    add_data_argument,
    add_final_norm_argument,
    add_going_on_arguments,
    add_run_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_encoder_arguments(parser)
    add_data_argument(parser, 'short lengths')
    parser.add_argument(
        '--protocol', choices=tuple(PROTOCOLS), default='internvit', help='whose recipe'
    )
    grid = parser.add_argument_group('the grid: all combinations train together')
    add = grid.add_argument
    add(
        '--layers',
        metavar='LIST',
        help="blocks from 0: 2,3,5, all, even:4, last:4, 2+5 to concatenate (default: protocol's)",
    )
    add('--norms', metavar='LIST', help="of bn, ln, none (default: the protocol's)")
    add('--lr', metavar='LIST', help='rates, as 1e-3,3e-4')
    add('--weight-decay', metavar='LIST', help='as 0,1e-3')
    add('--seeds', metavar='LIST', default='0', help='of first weights and dropout (default: 0)')
    rules = parser.add_argument_group("in the place of the protocol's")
    add = rules.add_argument
    add('--iters', type=int, metavar='N', help='steps')
    add('--batch', type=int, metavar='N', help='images of a step')
    add('--crop', type=int, metavar='PIXELS', help='side of the crop and of a window')
    add('--dropout', type=float, metavar='P', help='share of channels, before the norm')
    add('--optimizer', choices=('adamw', 'sgd'), help='with the rates of the grid')
    add_final_norm_argument(rules, "the protocol's")
    add(
        '--short',
        action=argparse.BooleanOptionalAction,
        help='lengths for two cores: 400 steps of 8 crops of 224 (default with scenes)',
    )
    store = parser.add_argument_group('feature store: the encoder runs once over fixed views')
    add = store.add_argument
    add('--store', metavar='DIR', help='train from a store there (auto: work_dirs/feature_store)')
    add(
        '--store-views',
        type=int,
        default=4,
        metavar='N',
        help='views of each training image (default: 4)',
    )
    add(
        '--store-dtype',
        choices=('bf16', 'fp16', 'fp32', 'int8'),
        default='bf16',
        help='on disk; the error is stated (default: bf16)',
    )
    run = add_run_arguments(parser, 'segment')
    add_going_on_arguments(run)
    add = run.add_argument
    add('--val-every', type=int, metavar='N', help='steps between validations (default: the end)')
    add('--save-every', type=int, metavar='N', help='steps between states (default: 5 minutes)')
    add('--data-seed', type=int, default=0, metavar='N', help='of order and augmentation')


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    from mmdet_seg.engine.checkpoint import newest_complete
    from mmdet_seg.probes.quantized_comparison import compared
    from mmdet_seg.probes.segment_run import SegmentRun

    return compared('segment', lambda args: SegmentRun(args).run(), args, newest_complete)
