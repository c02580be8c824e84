"""What a run of ``segment`` writes and says when it is done."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_seg.probes.probe_bank import ProbeBank, ProbeSpec
from mmdet_seg.probes.protocols import Protocol
from mmdet_seg.probes.results import Results, has_score
from mmdet_seg.probes.run_facts import command_words, machine_facts, now, peak_memory
from mmdet_seg.probes.segment_data import SegmentData
from mmdet_seg.probes.segment_evaluate import ProbeScore
from mmdet_seg.probes.segment_published import published_rows
from mmdet_seg.probes.segment_train import ProbeTrainer

_SHOWN = 10  # probes in the table that is printed


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        scores: One per probe.
        notes: What a reader must know to compare.
        cost: ``seconds`` and others, see :class:`mmdet_seg.probes.results.Results`.
        heads: Name of a probe -> its config for ``tools/test.py``.
        pictures: Entries for the results.
    """

    scores: list[ProbeScore]
    notes: list[str]
    cost: dict[str, Any]
    heads: dict[str, str]
    pictures: list[dict[str, Any]]


def make_results(
    encoder: dict[str, Any],
    device: str,
    data: SegmentData,
    trainer: ProbeTrainer,
    outcome: Outcome,
) -> Results:
    """Everything as ``results.json`` has it.

    Args:
        encoder: Its description.
        device: That it ran on.
        data: Images and labels.
        trainer: The probes, with their losses.
        outcome: Scores and the rest.
    """
    protocol = trainer.protocol
    rows = [
        _row(spec, protocol, score, trainer.stopped.get(spec.name))
        for spec, score in zip(trainer.bank.specs, outcome.scores, strict=True)
    ]
    curves = {row['name']: _curves(row, trainer) for row in rows}
    return Results(
        task='segment',
        encoder=encoder,
        data={
            'name': data.name,
            'root': data.root,
            'num_train': data.num_train,
            'num_val': data.num_val,
            'classes': data.classes,
        },
        protocol=protocol.name,
        rows=rows,
        curves=curves,
        cost={**outcome.cost, 'peak_memory_bytes': peak_memory(device)},
        notes=outcome.notes,
        machine=machine_facts(device),
        command=command_words(),
        date=now(),
        pictures=outcome.pictures,
        published=published_rows(data.name),
    )


def _curves(row: dict[str, Any], trainer: ProbeTrainer) -> dict[str, list]:
    """Loss, and the score where there was more than the last validation."""
    name, score = row['name'], row['score']
    before = [list(point) for point in trainer.scores[name]]
    shown = [*before, [trainer.step, score]] if before and score is not None else []
    return {'loss': trainer.losses[name], 'score': shown}


def _row(
    spec: ProbeSpec, protocol: Protocol, score: ProbeScore, stopped: int | None
) -> dict[str, Any]:
    row = {
        'name': spec.name,
        'layers': list(spec.layers),
        'combine': 'concat' if len(spec.layers) > 1 else 'single',
        'norm': spec.norm,
        'lr': spec.lr,
        'weight_decay': spec.weight_decay,
        'seed': spec.seed,
        'metric': 'mIoU',
        'score': score.scores['mIoU'],
        'scores': score.scores,
        'per_class': score.per_class,
    }
    if spec.dropout:
        row['dropout'] = spec.dropout
    if protocol.final_norm:
        row['final_norm'] = True
    if stopped is not None:  # its weights are not finite: whatever it scores means nothing
        row |= {'score': None, 'scores': {}, 'per_class': None, 'stopped_at': stopped}
    return row


def best_probe(bank: ProbeBank, trainer: ProbeTrainer, scores: list[ProbeScore]) -> int | None:
    """Number of the probe with the highest mIoU; None where all failed."""
    known = [i for i, spec in enumerate(bank.specs) if spec.name not in trainer.stopped]
    return max(known, key=lambda i: scores[i].scores['mIoU'], default=None)


def show(results: Results, folder: Path, heads: dict[str, str], report: Path | None) -> None:
    """Print the best probes and what can be done next."""
    rows = sorted(
        results.rows, key=lambda row: row['score'] if has_score(row) else -1.0, reverse=True
    )
    width = max(len(row['name']) for row in rows)
    print(f'{"probe":{width}}  {"mIoU":>6}  {"mAcc":>6}  {"aAcc":>6}')
    for row in rows[:_SHOWN]:
        if not has_score(row):
            print(f'{row["name"]:{width}}  not finite after step {row["stopped_at"]}')
            continue
        values = '  '.join(f'{row["scores"][k]:6.2f}' for k in ('mIoU', 'mAcc', 'aAcc'))
        print(f'{row["name"]:{width}}  {values}')
    if len(rows) > _SHOWN:
        print(f'... and {len(rows) - _SHOWN} more in {folder / "results.json"}')
    print(f'Look at {report or folder / "results.json"}.')
    best = rows[0]
    if config := heads.get(best['name']):
        checkpoint = Path(config).with_suffix('')
        print('The best one, where other tools can use it:')
        for tool, more in (('test', ''), ('infer', ' IMAGES... --out DIR')):
            words = shlex.join(['python', f'tools/{tool}.py', config, str(checkpoint)])
            print(f'  {words}{more}')
