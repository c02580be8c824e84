"""Train a segmentor: python tools/train.py configs/upernet_internvit.py"""

import argparse

from mmdet_seg import command_line
from mmdet_seg.cfg_options import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(
        description='Train a config. As given, configs/upernet_internvit.py trains a small '
        'InternViT on built-in scenes in about five minutes on two cores.'
    )
    parser.add_argument('config', metavar='CONFIG', help='path or name, as upernet_internvit')
    parser.add_argument(
        '--arch',
        metavar='NAME',
        help='encoder: 6b-224px, 300m-448px-v2-5, small, ...',
    )
    parser.add_argument('--data', metavar='NAME', help='data: scenes, ade20k, ...')
    parser.add_argument(
        '--weights',
        metavar='SOURCE',
        help="the encoder's checkpoint, any layout, instead of the published one",
    )
    parser.add_argument(
        '--tune',
        metavar='HOW',
        help='what of the encoder trains: head (nothing), partial[:BLOCKS] (the last blocks), '
        'full, or lora[:RANK] (adapters)',
    )
    parser.add_argument(
        '--protocol',
        default='ours',
        choices=('ours', 'authors'),
        help="authors: repeat the authors' code where ours knowingly differs",
    )
    parser.add_argument(
        '--strategy',
        choices=('single', 'ddp', 'zero1', 'zero2', 'zero3', 'zero3_offload', 'fsdp'),
        help='where weights, gradients and states live (default: ddp under torchrun)',
    )
    parser.add_argument('--work-dir', metavar='DIR', help='default: work_dirs/CONFIG/TIME')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='',
        metavar='PATH',
        help="continue the newest run of this config, or a run's folder or checkpoint",
    )
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard events too')
    parser.add_argument('--wandb', metavar='PROJECT', help='log to Weights & Biases too')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change config entries, as model.backbone.drop_path_rate=0.2',
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mmdet_seg.engine.training import train

    return train(
        args.config,
        arch=args.arch,
        data=args.data,
        work_dir=args.work_dir,
        resume=args.resume,
        tensorboard=args.tensorboard,
        wandb=args.wandb,
        options=args.cfg_options,
        protocol=args.protocol,
        weights=args.weights,
        tune=args.tune,
        strategy=args.strategy,
    )


if __name__ == '__main__':
    command_line.run(main)
