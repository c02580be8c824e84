"""Rewrite an InternViT checkpoint in another layout, bit for bit unless --dtype is given.

SOURCE is whatever InternViT.from_pretrained reads: a directory, file or hub id in any published
layout. OUT is a directory for native, hub and timm, a .pth file for pth, a .safetensors for own.

    python tools/convert.py OpenGVLab/InternViT-6B-448px-V2_5 intern_vit_6b.pth --to pth
    python tools/convert.py work_dirs/upernet/best.pth my_encoder --to native
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdet_seg import command_line

LAYOUTS = {
    'native': "transformers' InternVLVisionModel",
    'hub': 'InternViT repository, remote-code names',
    'pth': "the authors' .pth, wrapped in 'module'",
    'timm': 'vit_intern300m_patch14_448 and encoders like it',
    'own': 'one .safetensors file that knows its architecture',
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, before anything heavy is imported."""
    parser = argparse.ArgumentParser(
        prog='convert.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT', help='file or directory to write')
    what = '; '.join(f'{name}: {text}' for name, text in LAYOUTS.items())
    parser.add_argument('--to', required=True, choices=LAYOUTS, help=what)
    parser.add_argument(
        '--dtype',
        default='keep',
        choices=('keep', 'fp32', 'bf16', 'fp16'),
        help='dtype to write (default: as stored)',
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads of an unpublished size without config.json'
    )
    parser.add_argument('--force', action='store_true', help='replace what is at OUT')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Convert and print the report."""
    args = parse_args(argv)
    from rich.console import Console
    from rich.progress import Progress

    from mmdet_seg.backbones.conversion import convert

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f'writing {args.out}', total=None)
        report = convert(
            args.source,
            args.out,
            args.to,
            dtype=args.dtype,
            force=args.force,
            arch_overrides={'num_heads': args.num_heads},
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(report.summary())


if __name__ == '__main__':
    command_line.run(main)
