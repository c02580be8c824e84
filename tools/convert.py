"""Rewrite a checkpoint in another layout, bit for bit unless --dtype is given.

The encoder alone: SOURCE is whatever InternViT.from_pretrained reads, a directory, file or hub id
in any published layout or a checkpoint of a run. OUT is a directory for native, hub and timm, a
.pth file for pth, a .safetensors for own.

    python tools/convert.py OpenGVLab/InternViT-6B-448px-V2_5 intern_vit_6b.pth --to pth
    python tools/convert.py work_dirs/upernet/iter_540 my_encoder --to native

A whole segmentor or detector (--to model, --to folder): SOURCE is a checkpoint folder of a run, a
.pth or .safetensors, or a folder of DeepSpeed's own (ZeRO 1, 2 or 3, any number of processes).

    python tools/convert.py work_dirs/upernet/iter_540 upernet.safetensors --to model
    python tools/convert.py their_run/global_step80000 upernet.pth --to model
    python tools/convert.py upernet.pth my_checkpoint --to folder
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
MODELS = {
    'model': 'a whole model as .safetensors or .pth (no ending: a folder if over 5 GB)',
    'folder': "a whole model as a checkpoint folder like a run's",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, before anything heavy is imported."""
    parser = command_line.Parser(
        prog='convert.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT', help='file or directory to write')
    what = '; '.join(f'{name}: {text}' for name, text in (LAYOUTS | MODELS).items())
    parser.add_argument('--to', required=True, choices=LAYOUTS | MODELS, help=what)
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
    whole = parser.add_argument_group('whole models (--to model)')
    part = whole.add_mutually_exclusive_group()
    part.add_argument(
        '--complete',
        action='store_true',
        help='with the frozen encoder that a run left out, from where it came from (default)',
    )
    part.add_argument('--heads-only', action='store_true', help='without the encoder')
    whole.add_argument(
        '--merge-lora', action='store_true', help='LoRA adapters summed into the weights'
    )
    args = parser.parse_args(argv)
    if args.to in MODELS and args.num_heads:
        raise ValueError('--num-heads is for encoders; a whole model needs none.')
    if args.to in LAYOUTS and (args.complete or args.heads_only or args.merge_lora):
        raise ValueError('--complete, --heads-only and --merge-lora go with --to model.')
    return args


def main(argv: list[str] | None = None) -> None:
    """Convert and print the report."""
    args = parse_args(argv)
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f'writing {args.out}', total=None)
        common = {
            'dtype': args.dtype,
            'force': args.force,
            'progress': lambda done, total: bar.update(task, completed=done, total=total),
        }
        if args.to in MODELS:
            from mmdet_seg.engine.model_conversion import convert_model

            report = convert_model(
                args.source,
                args.out,
                args.to,
                heads_only=args.heads_only,
                merge_lora=args.merge_lora,
                **common,
            )
        else:
            from mmdet_seg.backbones.conversion import convert

            heads = {'num_heads': args.num_heads}
            report = convert(args.source, args.out, args.to, arch_overrides=heads, **common)
    print(report.summary())


if __name__ == '__main__':
    command_line.run(main)
