"""Lay out a public data set, or look through a folder of your own.

    python tools/prepare.py ade20k ADEChallengeData2016.zip
    python tools/prepare.py check my_folder

NAME is ade20k, coco, coco_stuff, cityscapes, pascal_context or voc12: SOURCE (zip, tar, folder, or
a folder that holds the archives) is laid out as --data expects it, labels are converted where they
have to be, and counts and label values are verified. Run it again after an interruption, it goes
on. With `check`, SOURCE is your own folder: with images/ and masks/, and what is found is written
to SOURCE/dataset.json; or with images and annotations in COCO's layout, for detectors. Then
`tools/train.py CONFIG --data SOURCE` trains on it.
"""

import argparse
import shlex

from mmdet_seg import command_line

NAMES = ('ade20k', 'coco', 'coco_stuff', 'cityscapes', 'pascal_context', 'voc12', 'check')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', metavar='NAME', choices=NAMES, help=', '.join(NAMES))
    parser.add_argument('source', metavar='SOURCE', help='what you downloaded, or your own folder')
    parser.add_argument('--out', metavar='DIR', help='default: where the config expects the data')
    own = parser.add_argument_group('check')
    own.add_argument(
        '--seed', type=int, help='of the split where there is no train/val (default: 0)'
    )
    own.add_argument('--val-share', type=float, help='share of such a split (default: 0.2)')
    args = parser.parse_args()
    if args.name == 'check' and args.out:
        parser.error('--out does not go with check: dataset.json lies beside the images.')
    return args


def main() -> int:
    args = parse_args()
    return check(args) if args.name == 'check' else lay_out(args)


def check(args: argparse.Namespace) -> int:
    """Report on the user's own folder; status 1 where files were broken."""
    from mmdet_seg.datasets.coco_annotations import has_annotations

    if has_annotations(args.source):
        return check_annotations(args)
    from mmdet_seg.datasets.folder_check import check_folder

    report = check_folder(
        args.source,
        0 if args.seed is None else args.seed,
        0.2 if args.val_share is None else args.val_share,
    )
    print('\n'.join(report.lines()))
    print(_next('upernet_internvit', args.source))
    broken = report.broken or report.pairs.clashes
    return command_line.FAILED if broken else command_line.OK


def check_annotations(args: argparse.Namespace) -> int:
    """Report on boxes and masks in COCO's layout; status 1 where images were broken."""
    from mmdet_seg.datasets.coco_check import check_coco

    if args.seed is not None or args.val_share is not None:
        raise ValueError(
            f'--seed and --val-share are for images and masks, and {args.source} has annotations '
            'in the layout of COCO: for other splits name two files train.json and val.json.'
        )
    report = check_coco(args.source)
    print('\n'.join(report.lines()))
    print(_next('mask_rcnn_internvit' if report.masks else 'dino_internvit', args.source))
    return command_line.FAILED if report.broken else command_line.OK


def _next(config: str, folder: str) -> str:
    return f'Train on it: python tools/train.py configs/{config}.py --data {shlex.quote(folder)}'


def lay_out(args: argparse.Namespace) -> int:
    """Prepare a public data set; status 1 where something is missing or broken."""
    from mmdet_seg.datasets.prepare import prepare
    from mmdet_seg.datasets.prepare_layouts import LAYOUTS

    done = prepare(args.name, args.source, args.out)
    layout = LAYOUTS[args.name]
    counts = ', '.join(f'{k} {v}' for k, v in done.counts.items())
    print(f'{done.root}: {counts} images; {done.new} files new, {done.kept} there before.')
    for problem in done.problems[:50]:
        print(f'  {problem}')
    if len(done.problems) > 50:
        print(f'  ... and {len(done.problems) - 50} more.')
    if done.problems:
        print(f'{len(done.problems)} problems. What has to be there: {layout.files}.')
        return command_line.FAILED
    where = ''
    if args.out:
        loaders = (
            f'{x}_dataloader.dataset.data_root={shlex.quote(args.out)}'
            for x in ('train', 'val', 'test')
        )
        where = f' --cfg-options {" ".join(loaders)}'
    print(
        'Counts and labels are as published. Train on it: '
        f'python tools/train.py configs/{layout.config}.py --data {layout.data}{where}'
    )
    return command_line.OK


if __name__ == '__main__':
    command_line.run(main)
