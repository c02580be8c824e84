"""What a frozen encoder knows: python tools/probe.py segment random:small --data scenes"""

import argparse
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mmdet_seg import command_line
from mmdet_seg.probes.disk import in_one_line

JOBS = {
    'segment': 'linear probes for segmentation, many on one pass of the encoder',
    'classify': 'linear probes, logistic regression and nearest neighbours for classification',
    'retrieve': 'dense nearest neighbours: patches to labels, nothing trained',
    'show': 'pictures of what patches and attention look like, of your own images',
    'table': 'merge the results of runs into Markdown, CSV and a plot',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Probe a frozen encoder.')
    jobs = parser.add_subparsers(dest='job', required=True, metavar='JOB')
    for job, what in JOBS.items():
        sub = jobs.add_parser(job, help=what, description=what[0].upper() + what[1:] + '.')
        _command(job).add_arguments(sub)
    return parser.parse_args()


def _command(job: str) -> ModuleType:
    """Module with ``add_arguments(parser)`` and ``main(args)``; it imports torch in ``main``."""
    return import_module(f'mmdet_seg.probes.{job}_command')


def main() -> int | None:
    args = parse_args()
    # A list is of files, and `table` names them itself.
    out = args.out if isinstance(args.out, str) else f'work_dirs/probe_{args.job}'
    with in_one_line('What was complete before stays as it is.', Path(out)):
        return _command(args.job).main(args)


if __name__ == '__main__':
    command_line.run(main)
