"""A run of ``tools/probe.py classify``: from the arguments to ``results.json`` and its page."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmdet_seg import command_line
from mmdet_seg.probes.classify_data import ClassificationData, open_data
from mmdet_seg.probes.classify_evaluate import Outcome
from mmdet_seg.probes.classify_fits import fit_rows
from mmdet_seg.probes.classify_head_file import read_head_state
from mmdet_seg.probes.classify_pictures import draw
from mmdet_seg.probes.classify_task import Fitted, Task
from mmdet_seg.probes.classify_views import Views
from mmdet_seg.probes.encoder_options import encoder_from, resolve_device
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.imagenet_sets import EvalSet, eval_sets, published_rows
from mmdet_seg.probes.own_images import check_images, patch_pictures
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.results import Results
from mmdet_seg.probes.run_facts import (
    command_words,
    hush,
    machine_facts,
    now,
    peak_memory,
    run_folder,
)

_IMAGENET = 1000
_PER_CLASS_ROWS = 16  # of more rows, only the best keeps its classes
_SHOWN = 20


def run(args: argparse.Namespace) -> int | None:
    """Do it; what is wrong with the arguments is said before anything takes long."""
    started = time.monotonic()
    hush()
    _check_numbers(args)
    check_images(args.images)
    data = _open(args)
    sets = _sets(args, data)
    args.device = resolve_device(args.device)
    encoder = encoder_from(args)
    views = _views(args, encoder)
    final_norm = args.final_norm
    if final_norm is None:
        final_norm = encoder.has_final_norm and args.protocol != 'internvit'
    if final_norm and not encoder.has_final_norm:
        raise ValueError(f'--final-norm: {encoder.name} has none; leave it out.')
    reader = Reader(encoder, args.encoder_batch, args.workers, final_norm)
    task = Task(args, data, sets, reader, views, run_folder('classify', args.out))
    command_line.note(
        f'{data.name}: {len(data.train or ())} training and {len(data.val)} test images, '
        f'{len(data.classes)} classes, {views.size} x {views.size} pixels; {encoder.name}'
    )
    if encoder.quantization_report is not None:
        task.notes.append(' '.join(encoder.quantization_report.text().split()))
    _say_enlarged(task)
    fitted: list[Fitted] = []
    stopped = False
    try:
        for row in fit_rows(task):
            fitted.append(row)
    except KeyboardInterrupt:
        stopped = True
        task.notes.append('The run was interrupted: rows are missing.')
    if not fitted:
        if not stopped:
            raise ValueError('Nothing came out.')
        command_line.note(f'Features are kept in {args.store}: the same command goes on.')
        raise KeyboardInterrupt
    results = _results(task, fitted, time.monotonic() - started)
    results.write(task.folder)
    page = write_report(task.folder)
    _print(results, page)
    if stopped:
        command_line.note(f'Features are kept in {args.store}: the same command goes on.')
        raise KeyboardInterrupt
    return None


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ('limit', 'views', 'size', 'batch', 'encoder_batch', 'epochs'):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ValueError(f'--{name.replace("_", "-")} {value:g} is not above 0.')
    for name in ('mixup', 'cutmix', 'smoothing', 'ema', 'workers', 'pictures'):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ValueError(f'--{name} {value:g} is below 0.')
    for name in ('smoothing', 'ema'):
        if (getattr(args, name) or 0) >= 1:
            raise ValueError(f'--{name} {getattr(args, name):g} is not below 1.')
    if args.temperature <= 0:
        raise ValueError(f'--temperature {args.temperature:g} is not above 0.')
    if args.crop_ratio is not None and not 0 < args.crop_ratio <= 1:
        raise ValueError(f'--crop-ratio {args.crop_ratio:g} is not in 0 .. 1.')
    if args.views and args.protocol in ('logreg', 'knn'):
        raise ValueError(f'--views: {args.protocol} reads each image once; leave it out.')
    if args.head and not Path(args.head).expanduser().exists():
        raise FileNotFoundError(f'--head {args.head}: no such file.')


def _open(args: argparse.Namespace) -> ClassificationData:
    data = open_data(args.data, train=args.head is None)
    if args.limit:
        train = data.train and data.train.limited(args.limit, args.data_seed)
        data = data._replace(train=train, val=data.val.limited(args.limit, args.data_seed))
    return data


def _sets(args: argparse.Namespace, data: ClassificationData) -> list[EvalSet]:
    """What is tested on beside the validation images, which come first."""
    found = [EvalSet('val', data.val)]
    if args.eval:
        roots = [Path(args.eval_root).expanduser()] if args.eval_root else []
        names = [n.strip() for n in args.eval.split(',')]
        others = eval_sets(names, data.val, Path(data.root), roots)
        if args.limit:
            for other in others:
                if other.sets is None:  # ReaL is of the validation images, which are limited
                    other.images = other.images.limited(args.limit, args.data_seed)
        found += [s for s in others if s.name != 'in-1k']
    return found


def _views(args: argparse.Namespace, encoder: FrozenEncoder) -> Views:
    size = args.size or encoder.img_size
    if args.head and not args.size:
        size = read_head_state(args.head)[1].size or size
    if size % encoder.patch_size:
        fit = max(round(size / encoder.patch_size), 1) * encoder.patch_size
        raise ValueError(
            f'--size {size} is no multiple of the patch of {encoder.patch_size} of '
            f'{encoder.name}; nearest that fits: {fit}.'
        )
    ratio = args.crop_ratio or (0.875 if args.protocol == 'dinov2' and not args.head else 1.0)
    return Views(size, crop_ratio=ratio, seed=args.data_seed)


def _say_enlarged(task: Task) -> None:
    width, height = task.data.val.image(0).size
    if min(width, height) < task.views.size:
        task.notes.append(
            f'Images of {width} x {height} pixels (the first one) were enlarged to '
            f'{task.views.size}.'
        )


def _results(task: Task, fitted: list[Fitted], seconds: float) -> Results:
    args, data, encoder = task.args, task.data, task.reader.encoder
    best = max(fitted, key=lambda f: -1 if f.failed else f.outcomes['val'].top1)
    many = len(fitted) > _PER_CLASS_ROWS
    rows = [_row(f, data, not many or f is best) for f in fitted]
    if not best.failed:
        pictures = draw(task.folder, data.val, best.outcomes['val'], args.pictures)
        if args.pictures:
            pictures += _patches(task, fitted)
    else:
        pictures = []
    names = [s.name for s in task.sets]
    imagenet = len(data.classes) == _IMAGENET and data.classes[0] == 'n01440764'
    cost = task.reader.cost
    return Results(
        task='classify',
        encoder=encoder.describe(),
        data={
            'name': data.name,
            'root': data.root,
            'num_train': len(data.train or ()),
            'num_val': len(data.val),
            'classes': data.classes,
            'size': task.views.size,
        },
        protocol='head' if args.head else args.protocol,
        rows=rows,
        curves=task.curves,
        cost={
            'seconds': seconds,
            'encoder_seconds': cost.seconds,
            'peak_memory_bytes': peak_memory(args.device),
            'disk_bytes': cost.disk,
            'images_per_second': cost.images / cost.seconds if cost.images else None,
        },
        notes=task.notes,
        machine=machine_facts(args.device),
        command=command_words(),
        date=now(),
        pictures=pictures,
        published=published_rows(names) if imagenet else [],
    )


def _patches(task: Task, fitted: list[Fitted]) -> list[dict[str, Any]]:
    """Pictures of the user's images, or of two that are tested on."""
    val, layers = task.data.val, [n for f in fitted for n in f.settings['layers']]
    images = check_images(task.args.images) or [
        (f'{val.name} {i}', np.asarray(val.image(i))) for i in sorted({0, len(val) // 2})
    ]
    return patch_pictures(task.reader.encoder, layers, task.folder, images)


def _row(fitted: Fitted, data: ClassificationData, classes: bool) -> dict[str, Any]:
    row = {**fitted.settings, 'name': fitted.name, 'metric': 'top1', 'per_class': None}
    if fitted.failed:
        return {**row, 'score': None, 'scores': {}, 'failed': fitted.failed}
    found: dict[str, Outcome] = fitted.outcomes
    scores = {'top1': found['val'].top1, 'top5': found['val'].top5}
    for name, outcome in found.items():
        if name != 'val':
            scores |= {name: outcome.top1, f'{name} top5': outcome.top5}
    if classes:
        row['per_class'] = found['val'].per_class(data.val.labels, data.classes)
    return {**row, 'score': found['val'].top1, 'scores': scores}


def _print(results: Results, page: Path) -> None:
    ordered = sorted(results.rows, key=lambda r: (r['score'] is None, -(r['score'] or 0)))
    shown = ordered[:_SHOWN]
    width = max(len(r['name']) for r in (*shown, *results.published))
    sets = [k for k in shown[0]['scores'] if k not in ('top1', 'top5') and not k.endswith(' top5')]
    print(f'{"":{width}}   top-1   top-5' + ''.join(f'{s:>8}' for s in sets))
    for row in shown:
        if row['score'] is None:
            print(f'{row["name"]:{width}}  {row["failed"]}')
            continue
        scores = row['scores']
        cells = [scores['top1'], scores['top5'], *(scores[s] for s in sets)]
        print(f'{row["name"]:{width}}' + ''.join(f'{c:8.2f}' for c in cells))
    if len(ordered) > len(shown):
        print(f'and {len(ordered) - len(shown)} more')
    for other in results.published:
        cells = [f'{other["scores"].get(s, ""):>8}' for s in sets]
        print(f'{other["name"]:{width}}{other["score"]:8.2f}{"":8}{"".join(cells)}  (published)')
    for note in results.notes:
        print(note)
    print(f'Look at {page}')
