"""Evaluate a segmentor or detector: python tools/test.py CONFIG CHECKPOINT"""

import argparse

from mmdet_seg import command_line
from mmdet_seg.cfg_options import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(
        description='Evaluate a checkpoint on the test split of a config and print '
        'IoU or AP per class.'
    )
    parser.add_argument('config', metavar='CONFIG', help='path or name; a run keeps its own copy')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file of weights')
    parser.add_argument('--arch', metavar='NAME', help='encoder, as in train.py')
    parser.add_argument('--data', metavar='NAME', help='data, as in train.py')
    parser.add_argument(
        '--protocol', default='ours', choices=('ours', 'authors'), help='as in train.py'
    )
    parser.add_argument('--tta', action='store_true', help='several scales, each also mirrored')
    parser.add_argument(
        '--out',
        metavar='DIR',
        help="results there: in COCO's format of detectors (default: the work dir), label PNGs of "
        'segmentors (default: none)',
    )
    parser.add_argument('--work-dir', metavar='DIR', help='default: work_dirs/CONFIG_test/TIME')
    parser.add_argument(
        '--quantize',
        choices=('int8', 'fp8'),
        help='hold the encoder in 8 bits; what that changes is printed (it is evaluated twice)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='as in train.py'
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mmdet_seg.engine.evaluation import evaluate

    return evaluate(
        args.config,
        args.checkpoint,
        arch=args.arch,
        data=args.data,
        work_dir=args.work_dir,
        options=args.cfg_options,
        protocol=args.protocol,
        tta=args.tta,
        out=args.out,
        quantize=args.quantize,
    )


if __name__ == '__main__':
    command_line.run(main)
