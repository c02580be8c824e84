"""What 8 bits cost in score: the same probe on the encoder as it is, then on the quantised one."""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

from mmdet_seg.command_line import note
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.results import Results, has_score

SUFFIX = '_unquantized'


def compare(
    job: Callable[[argparse.Namespace], int | None], args: argparse.Namespace
) -> int | None:
    """Run a job twice and print the change in score; it also goes into the second run's results.

    Args:
        job: Takes the arguments and leaves ``results.json`` in ``args.out``.
        args: With ``quantize``. The run without lies beside, ``..._unquantized``.

    Returns:
        Exit status of the job.

    Raises:
        ValueError: Nothing to compare with, or a run is to be resumed, which does not say which.
    """
    if not args.quantize:
        raise ValueError('--compare-quantized compares with --quantize int8 or fp8; name one.')
    if getattr(args, 'resume', None) is not None:
        raise ValueError('--compare-quantized begins two runs; --resume each of them by itself.')
    default = Path('work_dirs', f'probe_{args.job}', time.strftime('%Y%m%d_%H%M%S'))
    folder = Path(args.out) if args.out else default
    plain = folder.with_name(folder.name + SUFFIX)
    for how, out in ((None, plain), (args.quantize, folder)):
        note(f'{how or "as it is"}: {out}')
        one = copy.copy(args)
        one.quantize, one.out = how, str(out)
        if status := job(one):
            return status
    results = Results.read(folder)
    print(merge(results, Results.read(plain)))
    results.write(folder)
    write_report(folder)
    return None


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
        f'{how} against the same probes on the encoder as it is: {len(changes)} scores change by '
        f'{mean:+.2f} on average, {min(changes):+.2f} .. {max(changes):+.2f}.'
    )
    results.notes.append(say)
    return '\n'.join([*lines, say])
