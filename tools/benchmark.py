"""Measure against peers in one run: python tools/benchmark.py encoder"""

import argparse

from mmdet_seg import command_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measurements beside peers on this machine; prints Markdown tables.'
    )
    jobs = parser.add_subparsers(dest='job', required=True, metavar='JOB')
    encoder = jobs.add_parser(
        'encoder', help='images per second beside timm and transformers, same weights'
    )
    encoder.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    dtypes = ['fp32', 'bf16', 'fp16']
    encoder.add_argument('--dtypes', nargs='+', default=dtypes[:2], choices=dtypes)
    encoder.add_argument('--batches', nargs='+', type=int, default=[1, 4], metavar='N')
    encoder.add_argument('--rounds', type=int, default=5, metavar='N', help='turns of each encoder')
    encoder.add_argument('--device', default='cpu', metavar='NAME')
    load = jobs.add_parser(
        'load', help='time and memory of loading a made-up 6B checkpoint (12 GB on disk)'
    )
    load.add_argument('--depth', type=int, default=48, metavar='N', help='blocks')
    load.add_argument(
        '--stock-depth', type=int, default=6, metavar='N', help='blocks for torch.load, beside ours'
    )
    load.add_argument('--folder', metavar='DIR', help='where 12 GB are free; default: temporary')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.job == 'encoder':
        from mmdet_seg.engine import encoder_benchmark

        rows = encoder_benchmark.run(
            args.arch, args.dtypes, args.batches, args.rounds, args.device, command_line.note
        )
        print(f'{command_line.machine()}\n\n{encoder_benchmark.table(rows)}')
    else:
        from mmdet_seg.engine import load_benchmark

        rows = load_benchmark.run(
            args.depth, args.stock_depth, folder=args.folder, progress=command_line.note
        )
        print(f'{command_line.machine()}\n\n{load_benchmark.table(rows)}')
    return command_line.OK


if __name__ == '__main__':
    command_line.run(main)
