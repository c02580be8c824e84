"""Measure against peers in one run: python tools/benchmark.py encoder"""

import argparse

from mmdet_seg import command_line


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a whole number from 1')
    return int(text)


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
    encoder.add_argument('--batches', nargs='+', type=at_least_one, default=[1, 4], metavar='N')
    encoder.add_argument(
        '--rounds', type=at_least_one, default=5, metavar='N', help='turns of each encoder'
    )
    encoder.add_argument('--device', default='cpu', metavar='NAME')
    load = jobs.add_parser(
        'load', help='time and memory of loading a made-up 6B checkpoint (12 GB on disk)'
    )
    load.add_argument('--depth', type=at_least_one, default=48, metavar='N', help='blocks')
    load.add_argument(
        '--stock-depth',
        type=at_least_one,
        default=6,
        metavar='N',
        help='blocks for torch.load, beside ours',
    )
    load.add_argument('--folder', metavar='DIR', help='where 12 GB are free; default: temporary')
    segmentation = jobs.add_parser(
        'segmentation', help='mIoU, time and memory of (config, checkpoint) pairs in one table'
    )
    segmentation.add_argument(
        'list', metavar='LIST', help='lines CONFIG CHECKPOINT [KEY=VALUE ...], or JSON or YAML'
    )
    segmentation.add_argument('--out', metavar='DIR', default='work_dirs/segmentation_benchmark')
    segmentation.add_argument(
        '--processes',
        type=at_least_one,
        default=1,
        metavar='N',
        help='share the images of each evaluation',
    )
    slide = jobs.add_parser('slide', help="sliding windows beside mmseg's own loop")
    slide.add_argument('--config', default='linear_internvit', metavar='NAME')
    slide.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    slide.add_argument(
        '--sizes', nargs='+', default=['504x672', '1008x1344'], metavar='HxW', help='of the image'
    )
    slide.add_argument('--rounds', type=at_least_one, default=3, metavar='N')
    frozen = jobs.add_parser(
        'frozen', help='a training step of the frozen linear recipe beside mmseg with timm'
    )
    frozen.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    frozen.add_argument('--crop', type=at_least_one, default=504, metavar='PIXELS')
    frozen.add_argument('--batch', type=at_least_one, default=2, metavar='N')
    frozen.add_argument('--steps', type=at_least_one, default=4, metavar='N')
    frozen.add_argument('--rounds', type=at_least_one, default=2, metavar='N')
    deform = jobs.add_parser(
        'deform', help="deformable attention, forward and backward, beside mmcv's fallback"
    )
    deform.add_argument('--rounds', type=at_least_one, default=5, metavar='N')
    heads = jobs.add_parser(
        'heads', help="images per second of every head on the same encoder, beside mmseg's own"
    )
    heads.add_argument('--configs', nargs='+', metavar='NAME')
    heads.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    heads.add_argument('--data', default='ade20k', metavar='NAME', help='for its classes')
    heads.add_argument('--size', type=at_least_one, default=448, metavar='PIXELS')
    heads.add_argument('--rounds', type=at_least_one, default=3, metavar='N')
    detectors = jobs.add_parser(
        'detectors', help="images per second of every detector beside mmdet's own with ResNet-50"
    )
    detectors.add_argument('--configs', nargs='+', metavar='NAME')
    detectors.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    detectors.add_argument('--size', type=at_least_one, default=448, metavar='PIXELS')
    detectors.add_argument('--rounds', type=at_least_one, default=3, metavar='N')
    train = jobs.add_parser('train', help="a training step per strategy beside mmengine's Runner")
    train.add_argument('--config', default='upernet_internvit', metavar='NAME')
    train.add_argument('--arch', default='small', metavar='NAME')
    train.add_argument(
        '--ways',
        nargs='+',
        default=[
            'mmengine:1',
            'single:1',
            'mmengine:2',
            'ddp:2',
            'zero1:2',
            'zero2:2',
            'zero3:2',
            'fsdp:2',
        ],
        metavar='STRATEGY:PROCESSES',
    )
    train.add_argument(
        '--batch', type=at_least_one, default=8, metavar='N', help='of all processes'
    )
    train.add_argument('--steps', type=at_least_one, default=15, metavar='N')
    train.add_argument('--rounds', type=at_least_one, default=2, metavar='N')
    probes = jobs.add_parser(
        'probes', help='16 probes beside one, from a feature store, on an encoder in 8 bits'
    )
    probes.add_argument('--arch', default='300m-448px-v2-5', metavar='NAME')
    probes.add_argument('--crop', type=at_least_one, default=504, metavar='PIXELS')
    probes.add_argument('--batch', type=at_least_one, default=2, metavar='N')
    probes.add_argument('--rounds', type=at_least_one, default=3, metavar='N')
    probes.add_argument('--device', default='cpu', metavar='NAME')
    return parser.parse_args()


def sizes(texts: list[str]) -> list[tuple[int, int]]:
    """'504x672' to (504, 672)."""
    found = []
    for text in texts:
        height, _, width = text.partition('x')
        if not (height.isdigit() and width.isdigit()):
            raise ValueError(f'--sizes {text} is not HEIGHTxWIDTH in pixels, such as 504x672.')
        found.append((int(height), int(width)))
    return found


def ways(texts: list[str]) -> list[tuple[str, int]]:
    """'zero2:2' to ('zero2', 2)."""
    found = []
    for text in texts:
        name, _, number = text.partition(':')
        if not number.isdigit() or not int(number):
            raise ValueError(f'--ways {text} is not STRATEGY:PROCESSES, such as zero2:2.')
        found.append((name, int(number)))
    return found


def main() -> int:
    args = parse_args()
    if args.job == 'encoder':
        from mmdet_seg.engine import encoder_benchmark

        rows = encoder_benchmark.run(
            args.arch, args.dtypes, args.batches, args.rounds, args.device, command_line.note
        )
        print(f'{command_line.machine()}\n\n{encoder_benchmark.table(rows)}')
    elif args.job == 'segmentation':
        from mmdet_seg.engine import segmentation_benchmark

        return segmentation_benchmark.run(args.list, args.out, args.processes)
    elif args.job == 'slide':
        from mmdet_seg.engine import slide_benchmark

        rows = slide_benchmark.run(
            args.config, args.arch, sizes(args.sizes), args.rounds, command_line.note
        )
        print(f'{command_line.machine()}\n\n{slide_benchmark.table(rows)}')
    elif args.job == 'frozen':
        from mmdet_seg.engine import frozen_benchmark

        rows = frozen_benchmark.run(
            args.arch, args.crop, args.batch, args.steps, args.rounds, command_line.note
        )
        print(f'{command_line.machine()}\n\n{frozen_benchmark.table(rows)}')
    elif args.job == 'deform':
        from mmdet_seg.engine import deform_benchmark

        rows = deform_benchmark.run(rounds=args.rounds, progress=command_line.note)
        print(f'{command_line.machine()}\n\n{deform_benchmark.table(rows)}')
    elif args.job == 'heads':
        from mmdet_seg.engine import mask_benchmark

        rows = mask_benchmark.run(
            args.configs or mask_benchmark.CONFIGS, args.arch, args.data, args.size, args.rounds,
            command_line.note,
        )  # fmt: skip
        print(f'{command_line.machine()}\n\n{mask_benchmark.table(rows)}')
    elif args.job == 'detectors':
        from mmdet_seg.engine import detector_benchmark

        rows = detector_benchmark.run(
            args.configs or tuple(detector_benchmark.STOCK), args.arch, args.size, args.rounds,
            command_line.note,
        )  # fmt: skip
        print(f'{command_line.machine()}\n\n{detector_benchmark.table(rows)}')
    elif args.job == 'probes':
        from mmdet_seg.probes import probe_benchmark

        rows = probe_benchmark.run(
            args.arch, args.crop, args.batch, args.rounds, device=args.device,
            progress=command_line.note,
        )  # fmt: skip
        print(f'{command_line.machine()}\n\n{probe_benchmark.table(rows)}')
    elif args.job == 'train':
        from mmdet_seg.engine import train_benchmark

        rows = train_benchmark.run(
            args.config, args.arch, ways(args.ways), args.steps, args.rounds, args.batch,
            command_line.note,
        )  # fmt: skip
        print(f'{command_line.machine()}\n\n{train_benchmark.table(rows)}')
    else:
        from mmdet_seg.engine import load_benchmark

        rows = load_benchmark.run(
            args.depth, args.stock_depth, folder=args.folder, progress=command_line.note
        )
        print(f'{command_line.machine()}\n\n{load_benchmark.table(rows)}')
    return command_line.OK


if __name__ == '__main__':
    command_line.run(main)
