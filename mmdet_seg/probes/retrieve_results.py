"""What a run of ``retrieve`` writes and says when it is done."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdet_seg.probes.own_images import patch_pictures
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.results import Results
from mmdet_seg.probes.retrieval import Retrieval
from mmdet_seg.probes.run_facts import command_words, machine_facts, now, peak_memory
from mmdet_seg.probes.segment_evaluate import ProbeScore
from mmdet_seg.probes.segment_pictures import write_pictures

if TYPE_CHECKING:
    from mmdet_seg.probes.retrieve_run import RetrieveRun

_SHOWN = 10  # rows of the table that is printed
# mIoU on VOC 2012 by entries of the memory, 30 neighbours.
_SOURCE = 'vpariza/open-hummingbird-eval, README'
_VOC12 = {
    102_400: (
        ('DINO ViT-S/16', 37.2),
        ('DINO ViT-B/16', 44.9),
        ('DINOv2 ViT-S/14', 70.2),
        ('DINOv2 ViT-B/14', 69.1),
        ('DINOv2 ViT-L/14', 64.6),
        ('DINOv2 ViT-G/14', 62.3),
    ),
    1_024_000: (
        ('DINO ViT-S/16', 43.1),
        ('DINO ViT-B/16', 50.8),
        ('DINOv2 ViT-S/14', 74.9),
        ('DINOv2 ViT-B/14', 74.6),
        ('DINOv2 ViT-L/14', 71.7),
        ('DINOv2 ViT-G/14', 69.9),
    ),
    10_240_000: (
        ('DINO ViT-S/16', 46.6),
        ('DINO ViT-B/16', 55.7),
        ('DINOv2 ViT-S/14', 77.0),
        ('DINOv2 ViT-B/14', 76.9),
        ('DINOv2 ViT-L/14', 74.8),
        ('DINOv2 ViT-G/14', 73.6),
    ),
}


def published_rows(data: str, memory_size: int) -> list[dict[str, Any]]:
    """Others' figures on this data with a memory of this size."""
    found = _VOC12.get(memory_size, ()) if data == 'voc12' else ()
    return [{'name': name, 'score': score, 'source': _SOURCE} for name, score in found]


def finish(run: 'RetrieveRun', retrieval: Retrieval, scores: list[ProbeScore]) -> None:
    """Write pictures, results and report, and say where they are."""
    best = max(range(len(scores)), key=lambda i: scores[i].scores['mIoU'])
    results = Results(
        task='retrieve',
        encoder=run.encoder.describe(),
        data={
            'name': run.data.name,
            'root': run.data.root,
            'num_train': run.data.num_train,
            'num_val': run.data.num_val,
            'classes': run.data.classes,
        },
        protocol=run.data.protocol.name,
        rows=[_row(run, i, score) for i, score in enumerate(scores)],
        cost=_cost(run),
        notes=[*_notes(run), *run.notes],
        machine=machine_facts(run.encoder.device),
        command=command_words(),
        date=now(),
        pictures=_pictures(run, retrieval, best, scores[best]),
        published=published_rows(run.data.name, run.memory.size),
    )
    results.write(run.folder)
    _show(results, write_report(run.folder))


def _row(run: 'RetrieveRun', number: int, score: ProbeScore) -> dict[str, Any]:
    setting = run.rows[number]
    return {
        'name': setting.name,
        'layers': [setting.layer],
        'combine': 'single',
        'norm': 'unit length',
        'lr': None,
        'weight_decay': None,
        'seed': run.args.seed,
        'neighbours': setting.neighbours,
        'temperature': setting.temperature,
        'metric': 'mIoU',
        'score': score.scores['mIoU'],
        'scores': score.scores,
        'per_class': score.per_class,
    }


def _cost(run: 'RetrieveRun') -> dict[str, Any]:
    evaluation = run.seconds['evaluation']
    return {
        'seconds': round(time.monotonic() - run.started, 2),
        **{f'{k}_seconds': round(v, 2) for k, v in run.seconds.items()},
        'images_per_second': round(run.data.num_val / evaluation, 3) if evaluation else None,
        'peak_memory_bytes': peak_memory(run.encoder.device),
        'memory_of_patches_bytes': run.memory.bytes_needed,
    }


def _notes(run: 'RetrieveRun') -> list[str]:
    memory, args, protocol = run.memory, run.args, run.data.protocol
    views = 'view' if args.views == 1 else 'views'
    notes = [
        f'{protocol.source[0].upper()}{protocol.source[1:]}: nothing is trained; patches get the '
        'labels of their nearest neighbours among patches of training images.',
        f'Memory of {len(memory):,} patches of {protocol.crop} pixel crops, {args.views} {views} '
        f'of each training image, seed {args.seed}, kept as float16; images are scored whole, at '
        "their labels' own size.",
    ]
    if len(memory) < memory.size:
        notes.append(
            f'The images give fewer labelled patches than the {memory.size:,} asked for; '
            'more --views give more.'
        )
    if run.final_norm:
        notes.append("Features go through the encoder's own last norm.")
    if report := run.encoder.quantization_report:
        notes.append(report.text())
    return notes


def _pictures(
    run: 'RetrieveRun', retrieval: Retrieval, best: int, score: ProbeScore
) -> list[dict[str, Any]]:
    if run.args.pictures <= 0:
        return []
    setting = [run.rows[best]]
    images = run.images or run.data.some_files(2)
    return patch_pictures(run.encoder, run.memory.layers, run.folder, images) + write_pictures(
        run.folder,
        lambda image: retrieval.predict(image, setting)[0],
        run.data,
        score.per_image,
        run.args.pictures,
    )


def _show(results: Results, report: Path) -> None:
    rows = sorted(results.rows, key=lambda row: -row['score'])
    width = max(len(row['name']) for row in rows)
    print(f'{"row":{width}}  {"mIoU":>6}  {"mAcc":>6}  {"aAcc":>6}')
    for row in rows[:_SHOWN]:
        values = '  '.join(f'{row["scores"][k]:6.2f}' for k in ('mIoU', 'mAcc', 'aAcc'))
        print(f'{row["name"]:{width}}  {values}')
    if len(rows) > _SHOWN:
        print(f'... and {len(rows) - _SHOWN} more in {report.with_name("results.json")}')
    print(f'Look at {report}.')
