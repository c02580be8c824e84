"""Know before you pay: python tools/plan.py upernet_internvit --gpus 8 --gpu-memory 80"""

import argparse

from mmdet_seg import command_line
from mmdet_seg.cfg_options import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(
        description='Say what a training takes of GPU and host memory under every strategy, which '
        'one to take, and the command for it. Nothing is allocated and no weight is read: 6B takes '
        'half a minute on a laptop. Exit status 1: nothing fits.'
    )
    parser.add_argument('config', metavar='CONFIG', help='path or name, as upernet_internvit')
    parser.add_argument(
        '--gpus', type=int, metavar='N', help='processes, one on each GPU (required)'
    )
    parser.add_argument(
        '--gpu-memory', type=float, metavar='GIB', help='of one GPU, as 80 (required)'
    )
    parser.add_argument(
        '--cpu-memory', type=float, metavar='GIB', help='of the machine; left out, it is not tested'
    )
    parser.add_argument('--arch', metavar='NAME', help='encoder: 6b-224px, 300m-448px-v2-5, ...')
    parser.add_argument('--data', metavar='NAME', help='data: scenes, ade20k, ...')
    parser.add_argument('--weights', metavar='SOURCE', help='as for tools/train.py; not opened')
    parser.add_argument(
        '--tune', metavar='HOW', help='head, partial[:BLOCKS], full, or lora[:RANK]'
    )
    parser.add_argument('--protocol', default='ours', choices=('ours', 'authors'))
    parser.add_argument('--json', metavar='FILE', help='write everything, in bytes, here too')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='config entries'
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    for name in ('gpus', 'gpu_memory'):
        if getattr(args, name) is None:
            flag = f'--{name.replace("_", "-")}'
            raise ValueError(f'{flag} is missing: plan for what? As --gpus 8 --gpu-memory 80.')
    from mmdet_seg.engine.plan_report import plan_training

    return plan_training(
        args.config,
        args.gpus,
        args.gpu_memory,
        args.cpu_memory,
        json_file=args.json,
        options=args.cfg_options,
        **{k: getattr(args, k) for k in ('arch', 'data', 'weights', 'tune', 'protocol')},
    )


if __name__ == '__main__':
    command_line.run(main)
