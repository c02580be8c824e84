"""Write a segmentor as one ONNX or torch.export file and check it in the same run.

The file maps images (B, 3, H, W), float32 RGB 0 .. 255, to logits (B, C, H, W): normalisation,
encoder, neck, decode head and the resizing are inside; B, H and W are free, H and W in multiples of
the patch. Sliding windows are left to the caller. Class names and palette are in the metadata.

    python tools/export.py CONFIG CHECKPOINT --format onnx
    python tools/export.py CONFIG CHECKPOINT --format torch_export --out segmentor.pt2
"""

import argparse

from mmdet_seg import command_line
from mmdet_seg.cfg_options import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', metavar='CONFIG', help='path or name; a run keeps its own copy')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file of weights')
    parser.add_argument('--format', required=True, choices=('onnx', 'torch_export'))
    parser.add_argument('--out', metavar='FILE', help='default: CHECKPOINT with .onnx or .pt2')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='size to check, and others around it'
    )
    parser.add_argument('--force', action='store_true', help='replace what is at FILE')
    parser.add_argument('--arch', metavar='NAME', help='encoder, as in train.py')
    parser.add_argument('--data', metavar='NAME', help='data, as in train.py')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='as in train.py'
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mmdet_seg.engine.export import export

    return export(
        args.config,
        args.checkpoint,
        args.format,
        out=args.out,
        size=args.size,
        arch=args.arch,
        data=args.data,
        options=args.cfg_options,
        force=args.force,
    )


if __name__ == '__main__':
    command_line.run(main)
