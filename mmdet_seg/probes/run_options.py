"""Options that jobs of ``tools/probe.py`` share, beside those of the encoder."""

import argparse
from typing import Any


def add_data_argument(parser: argparse.ArgumentParser, short: str) -> None:
    """Declare ``--data`` of dense jobs; ``short`` says what is smaller with the scenes."""
    parser.add_argument(
        '--data',
        metavar='NAME',
        default='scenes',
        help=f'scenes ({short}), ade20k, ..., or a folder that prepare.py check has seen',
    )


def add_final_norm_argument(group: Any, otherwise: str) -> None:
    """Declare ``--final-norm``; ``otherwise`` says what happens where it is not given."""
    group.add_argument(
        '--final-norm',
        action=argparse.BooleanOptionalAction,
        help=f"features after the encoder's own last norm (default: {otherwise})",
    )


def add_run_arguments(
    parser: argparse.ArgumentParser,
    job: str,
    *,
    pictures: str = '3',
    of_pictures: str = 'best and worst images',
    workers: int = 2,
) -> Any:
    """Declare where a run writes, how it goes on, where it runs and what it shows.

    Args:
        parser: Of the job.
        job: Its name.
        pictures: How many of ``of_pictures``.
        of_pictures: What ``--pictures`` counts.
        workers: Processes that load.

    Returns:
        The group, for what only this job has.
    """
    group = parser.add_argument_group('the run')
    add = group.add_argument
    add('--out', metavar='DIR', help=f'default: work_dirs/probe_{job}/TIME')
    add(
        '--workers',
        type=int,
        default=workers,
        metavar='N',
        help=f'processes that load (default: {workers})',
    )
    add_device_argument(group)
    add(
        '--pictures',
        type=int,
        default=int(pictures),
        metavar='N',
        help=f'{of_pictures} (default: {pictures})',
    )
    add(
        '--images',
        nargs='+',
        default=[],
        metavar='IMAGE',
        help='your own, whose patches the report shows (default: two of those that are scored)',
    )
    return group


def add_going_on_arguments(group: Any) -> None:
    """Declare ``--resume`` and ``--cfg-options`` of dense jobs."""
    group.add_argument(
        '--resume',
        nargs='?',
        const='',
        metavar='DIR',
        help='go on with the newest interrupted run, or the one in DIR; other options as then',
    )
    group.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='of the data, as in train.py'
    )


def add_device_argument(group: Any) -> None:
    """Declare ``--device``."""
    group.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1; default: the best')


def check_workers(args: argparse.Namespace) -> None:
    """Refuse a number of processes that there cannot be.

    Raises:
        ValueError: Below 0.
    """
    if args.workers < 0:
        raise ValueError(f'--workers {args.workers} is below 0; 0 loads in this process.')
