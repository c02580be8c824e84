"""Command line of ``tools/probe.py classify``."""

import argparse

from mmdet_seg.probes.encoder_options import add_encoder_arguments
from mmdet_seg.probes.run_options import add_final_norm_argument, add_run_arguments

PROTOCOLS = ('internvit', 'dinov2', 'logreg', 'knn')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_encoder_arguments(parser)
    add = parser.add_argument
    add(
        '--data',
        metavar='NAME',
        default='fashion-mnist',
        help='fashion-mnist[:FOLDER] (apt install dataset-fashion-mnist), a folder with '
        "train/CLASS and val/CLASS or the authors' meta/train.txt and meta/val.txt, "
        'torchvision:CIFAR10[:ROOT] (default: fashion-mnist)',
    )
    add(
        '--protocol',
        choices=PROTOCOLS,
        default='internvit',
        help='internvit: the published linear probe; dinov2: its grid of rates and poolings; '
        'logreg, knn: on stored features (default: internvit)',
    )
    add('--head', metavar='FILE', help="only test a head: the authors' .pth or one of ours")
    add('--size', type=int, metavar='PIXELS', help="side of the images (default: the encoder's)")
    add(
        '--crop-ratio',
        type=float,
        metavar='R',
        help='for testing, the side over the short side of the resized image '
        '(default: 0.875 for dinov2, else 1)',
    )
    add('--limit', type=int, metavar='N', help='images of each part, drawn by the seed')
    add(
        '--eval',
        metavar='LIST',
        help="for ImageNet's classes, also test on: in-1k,real,v2,a,r,sketch (or NAME=PATH)",
    )
    add('--eval-root', metavar='DIR', help='where those lie (default: beside the data)')
    grid = parser.add_argument_group('what the heads read')
    add = grid.add_argument
    add(
        '--layers',
        metavar='LIST',
        help='blocks from 0: 2,5, all, even:4, last:4, 2+5 joined '
        '(default: the last; of logreg and knn, up to six)',
    )
    add(
        '--pool',
        metavar='LIST',
        help='of class, mean, cls_patch_concat, attention_pooling, clip_projector',
    )
    add('--projector', metavar='FILE', help="checkpoint with the clip projector's frozen pool")
    add_final_norm_argument(grid, 'where there is one, but for internvit')
    _training(parser.add_argument_group('training: all combinations at once'))
    fits = parser.add_argument_group('logreg and knn')
    add = fits.add_argument
    add('--C', metavar='LIST', help='inverse penalties to choose from (default: 1e-3 ... 10)')
    add('--k', metavar='LIST', help='numbers of neighbours (default: 10,20,100,200)')
    add('--temperature', type=float, default=0.07, metavar='T', help='of the votes (default: 0.07)')
    run = add_run_arguments(
        parser, 'classify', pictures='18', of_pictures='images of a sheet', workers=1
    )
    add = run.add_argument
    add(
        '--store',
        metavar='DIR',
        default='work_dirs/probe_features',
        help='pooled features are kept there (default: work_dirs/probe_features)',
    )
    add('--encoder-batch', type=int, default=64, metavar='N', help='images at a time (default: 64)')


def _training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        '--views',
        type=int,
        metavar='N',
        help='store N fixed views of every image and train from them, instead of running the '
        'encoder on new views at every step',
    )
    add(
        '--augment',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='random resized crops and flips, as published; without, training sees what the test '
        'sees (small pictures of whole things)',
    )
    add('--lr', metavar='LIST', help='rates for 512 (internvit) or 256 (dinov2) images a batch')
    add('--weight-decay', metavar='LIST', default='0', help='as 0,1e-4 (default: 0)')
    add('--norm', metavar='LIST', default='bn', help='of internvit: bn, none (default: bn)')
    add('--seeds', metavar='LIST', default='0', help='of first weights (default: 0)')
    add('--last-blocks', metavar='LIST', default='1,4', help='of dinov2 (default: 1,4)')
    add('--epochs', type=float, metavar='N', help='default: 10')
    add('--batch', type=int, metavar='N', help='images of a step (default: 1024)')
    add('--mixup', type=float, metavar='A', help='default: 0.8 for internvit, else 0 (off)')
    add('--cutmix', type=float, metavar='A', help='default: 1 for internvit, else 0 (off)')
    add('--smoothing', type=float, metavar='S', help='default: 0.1 for internvit, else 0')
    add('--ema', type=float, metavar='DECAY', help='test an average of the weights, as 0.998')
    add('--data-seed', type=int, default=0, metavar='N', help='of order, views and --limit')


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    from mmdet_seg.probes.classify_job import run
    from mmdet_seg.probes.classify_loop import STATE
    from mmdet_seg.probes.quantized_comparison import compared

    return compared('classify', run, args, kept=STATE)
