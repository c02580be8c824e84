"""Classifiers that are fitted on stored features: nearest neighbours and logistic regression."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmdet_seg import command_line
from mmdet_seg.probes.classify_grid import default_layers, layer_name, poolings
from mmdet_seg.probes.classify_heads import WITH_WEIGHTS, ClassificationHead
from mmdet_seg.probes.classify_inputs import EachOnce, Inputs, Reads
from mmdet_seg.probes.classify_task import Fitted, Task, keep_head, scorer, settings
from mmdet_seg.probes.logistic_regression import STRENGTHS, Regression, fit
from mmdet_seg.probes.nearest_neighbours import NUM_NEIGHBOURS, NearestNeighbours
from mmdet_seg.probes.segment_grid import parse_layers, parse_numbers


def knn_rows(task: Task) -> Iterator[Fitted]:
    """Weighted nearest neighbours for every layer, pooling and number of neighbours."""
    args, data = task.args, task.data
    ks = parse_numbers('--k', args.k, int) or list(NUM_NEIGHBOURS)
    if min(ks) < 1:
        raise ValueError(f'--k {args.k}: at least one neighbour.')
    ks = [k for k in ks if k <= len(data.train)] or [len(data.train)]
    for (layers, pooling), features, chunks in _stored_features(task, ('class', 'mean')):
        device = task.reader.encoder.device
        labels = torch.from_numpy(data.train.labels)
        space = NearestNeighbours(features.to(device), labels, len(data.classes), args.temperature)
        stem = f'{layer_name(layers)}, {pooling}'

        def score(inputs: Inputs) -> dict[str, Tensor]:
            votes = space.votes(inputs.of(layers, pooling), ks)  # noqa: B023
            return {f'{stem}, k {k}': v for k, v in votes.items()}  # noqa: B023

        found = task.test([score], chunks)
        for k in ks:
            name = f'{stem}, k {k}'
            kept = {**settings(layers, pooling, 'l2'), 'k': k}
            yield Fitted(name, {**kept, 'temperature': args.temperature}, found[name])
            command_line.note(f'{name}: {found[name]["val"].top1:.2f}')


def logreg_rows(task: Task) -> Iterator[Fitted]:
    """Logistic regression for every layer and pooling; the best one is kept as a head."""
    args, data, best = task.args, task.data, -1.0
    strengths = parse_numbers('--C', args.C, float) or list(STRENGTHS)
    if min(strengths) <= 0:
        raise ValueError(f'--C {args.C}: numbers above 0.')
    task.notes.append(
        'C was chosen on a tenth of the training images, held out, with fits of at most 10,000 '
        'others; channels have mean 0 and deviation 1.'
    )
    for (layers, pooling), features, chunks in _stored_features(
        task, ('class', 'cls_patch_concat')
    ):
        found = fit(
            features.numpy(), data.train.labels, len(data.classes), strengths, seed=args.data_seed
        )
        head = ClassificationHead(features.shape[1], len(data.classes), pooling, 'none').eval()
        head.head.weight.data, head.head.bias.data = map(
            torch.from_numpy, (found.weight, found.bias)
        )
        head.to(task.reader.encoder.device)
        name = f'{layer_name(layers)}, {pooling}'
        outcomes = task.test([scorer({name: (head, layers)})], chunks)[name]
        kept = {
            **settings(layers, pooling, 'standard'),
            'C': found.C,
            'held_out': {f'{c:g}': v for c, v in found.held_out.items()},
            'converged': found.converged,
        }
        _warn(task, name, found, strengths)
        top1 = outcomes['val'].top1
        command_line.note(f'{name}: {top1:.2f} (C {found.C:g})')
        if top1 > best:
            best = top1
            keep_head(task, head, layers)
        yield Fitted(name, kept, outcomes)


def _warn(task: Task, name: str, found: Regression, strengths: Sequence[float]) -> None:
    """Say in the results where a longer or wider search could end higher."""
    if len(strengths) > 1 and found.C in (min(strengths), max(strengths)):
        task.notes.append(f'{name}: the chosen C {found.C:g} is at the end of those tried.')
    if not found.converged:
        task.notes.append(f'{name}: lbfgs was stopped before it had come to an end.')


def _stored_features(
    task: Task, usual: Sequence[str]
) -> Iterator[tuple[tuple, Tensor, list[EachOnce]]]:
    """(layers, pooling), (n, F) of the training images, and the features of the sets."""
    args, encoder = task.args, task.reader.encoder
    taps = parse_layers(args.layers, encoder) if args.layers else default_layers(encoder)
    pools = poolings(args.pool, usual, encoder)
    if wrong := next((p for p in pools if p in WITH_WEIGHTS), None):
        raise ValueError(f'--pool {wrong} is trained: --protocol internvit.')
    wanted = list(itertools.product(taps, pools))
    reads = Reads.of(wanted)
    store = Path(args.store)
    train_set = EachOnce(
        task.reader, task.data.train, task.views, reads, store, 'features of the training images'
    )
    chunks = task.chunks(reads)
    for layers, pooling in wanted:
        features = torch.cat([inputs.of(layers, pooling).cpu() for _, inputs in train_set])
        yield (layers, pooling), features, chunks
