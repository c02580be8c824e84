"""What 8 bits cost in score: the same probe on the quantised encoder, then on it as it is."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmdet_seg.command_line import note
from mmdet_seg.engine.work_dir import new_work_dir
from mmdet_seg.probes.encoder_options import check_comparison
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.results import FILE_NAME, Results, has_score

SUFFIX = '_unquantized'


def compared(
    name: str,
    job: Callable[[argparse.Namespace], int | None],
    args: argparse.Namespace,
    has_state: Callable[[Path], Any] | None = None,
    kept: str | None = None,
) -> int | None:
    """Run a job; with ``--quantize`` a second time without, and print the change in every score.

    The change also goes into the quantised run's results. The run without lies beside,
    ``..._unquantized``. The quantised one comes first: peaks of memory only grow in a process.

    Args:
        name: Of the job.
        job: Takes the arguments and leaves ``results.json`` in ``args.out``.
        args: Of the command line.
        has_state: Whether a folder holds what ``--resume`` goes on from; None where the job knows
            by itself.
        kept: Name of a file that the job leaves in ``args.out`` so that a finished half is not
            done again after an interrupted one; it goes when both are there.

    Returns:
        Exit status of the job.

    Raises:
        ValueError: Nothing to compare with.
        FileNotFoundError: ``--resume`` finds no run.
    """
    check_comparison(args)
    if not args.quantize or args.compare_quantized is False:
        return job(args)
    resumed = getattr(args, 'resume', None) is not None
    folder = _resumed(name, args) if resumed else new_work_dir(f'probe_{name}', args.out)
    folder = folder if folder.name else folder.resolve()
    plain = folder.with_name(folder.name + SUFFIX)
    for how, out in ((args.quantize, folder), (None, plain)):
        if resumed and (out / FILE_NAME).is_file():
            continue
        note(f'{how or "as it is"}: {out}')
        one = copy.copy(args)
        one.quantize, one.out, one.compared_in = how, str(out), folder
        if has_state:
            one.resume = str(out) if resumed and has_state(out) else None
        if status := job(one):
            return status
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    results = Results.read(folder)
    print(merge(results, Results.read(plain)))
    results.write(folder)
    print(f'Look at {write_report(folder)}.')
    if kept:
        for out in (folder, plain):
            (out / kept).unlink(missing_ok=True)
    return None


def _resumed(name: str, args: argparse.Namespace) -> Path:
    """The folder of the quantised run."""
    root = Path('work_dirs', f'probe_{name}')
    found = [Path(args.resume or args.out)] if args.resume or args.out else []
    found = found or sorted((p for p in root.glob('*') if p.is_dir()), reverse=True)
    if not found:
        raise FileNotFoundError(f'--resume: no run in {root}; leave --resume out to start anew.')
    return found[0].with_name(found[0].name.removesuffix(SUFFIX))


def merge(results: Results, plain: Results) -> str:
    """Put the scores of ``plain`` beside those of the quantised run; says what changed."""
    how, before = results.encoder['quantization'], {row['name']: row for row in plain.rows}
    lines, changes = [f'| probe | as it is | {how} | change |', '|---|---:|---:|---:|'], []
    for row in results.rows:
        other = before.get(row['name'])
        if other is None or not has_score(row) or not has_score(other):
            continue
        row['score_unquantized'] = other['score']
        changes.append(row['score'] - other['score'])
        lines.append(
            f'| {row["name"]} | {other["score"]:.2f} | {row["score"]:.2f} | {changes[-1]:+.2f} |'
        )
    if not changes:
        return f'{how}: no probe has a score in both runs.'
    mean = sum(changes) / len(changes)
    say = (
        f'{how} against the same probes on the encoder as it is: scores change by '
        f'{mean:+.2f} on average, {min(changes):+.2f} .. {max(changes):+.2f} ({len(changes)}).'
    )
    if say not in results.notes:
        results.notes.append(say)
    return '\n'.join([*lines, say])
