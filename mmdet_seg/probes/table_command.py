"""Command line of ``tools/probe.py table``."""

import argparse
from pathlib import Path

from mmdet_seg.probes.disk import in_one_line

_SUFFIXES = ('.md', '.csv', '.png')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'runs', metavar='RUN', nargs='+', help='folders of runs, or their results.json'
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        nargs='+',
        default=[],
        help='files to write: .md, .csv, .png (score by depth); the Markdown is printed anyway',
    )
    parser.add_argument(
        '--all', action='store_true', help='every row of a run in the Markdown, not the best alone'
    )


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    files = [Path(name) for name in args.out]
    for file in files:
        if file.suffix not in _SUFFIXES:
            raise ValueError(f'--out {file}: the name ends with {", ".join(_SUFFIXES)}.')
    from mmdet_seg.probes.results_table import as_csv, compare, markdown, read_runs

    tables = compare(read_runs(args.runs))
    if not tables:
        raise ValueError(f'{", ".join(args.runs)}: no rows yet; the probe has not got far enough.')
    text = markdown(tables, every_row=args.all)
    print(text, end='')
    for file in files:
        with in_one_line('Make room, or write elsewhere.', file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == '.png':
                from mmdet_seg.probes.results_plot import draw

                draw(tables, file)
            else:
                file.write_text(text if file.suffix == '.md' else as_csv(tables), encoding='utf-8')
    return None
