"""Segment images, or find objects: python tools/infer.py CONFIG CHECKPOINT IMAGES... --out DIR"""

import argparse

from mmdet_seg import command_line
from mmdet_seg.cfg_options import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(
        description='Run a model over images of any size and mode. Writes overlays and label PNGs, '
        "or, of objects and panoptic segments, JSON in COCO's layout."
    )
    parser.add_argument('config', metavar='CONFIG', help='path or name; a run keeps its own copy')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file of weights')
    parser.add_argument('images', metavar='IMAGES', nargs='+', help='files, folders or globs')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder to write to')
    parser.add_argument(
        '--min-score',
        type=float,
        default=0.3,
        metavar='S',
        help='objects with a lower score are left out (default: 0.3)',
    )
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1; default: the best')
    parser.add_argument(
        '--quantize',
        choices=('int8', 'fp8'),
        help='hold the encoder in 8 bits; what that changes is printed',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='as in train.py'
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mmdet_seg.engine.inference import infer

    return infer(
        args.config,
        args.checkpoint,
        args.images,
        args.out,
        options=args.cfg_options,
        device=args.device,
        least_score=args.min_score,
        quantize=args.quantize,
    )


if __name__ == '__main__':
    command_line.run(main)
