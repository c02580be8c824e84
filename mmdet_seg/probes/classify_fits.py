"""The protocols: fit classifiers on a frozen encoder's features and test them."""

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg import command_line
from mmdet_seg.probes.classify_data import ClassificationData
from mmdet_seg.probes.classify_evaluate import Outcome, Scorer, evaluate
from mmdet_seg.probes.classify_grid import (
    default_layers,
    dinov2_probes,
    internvit_probes,
    layer_name,
    parse_words,
    poolings,
)
from mmdet_seg.probes.classify_head_file import (
    HeadFacts,
    head_from,
    read_head_state,
    read_projector,
    save_head,
)
from mmdet_seg.probes.classify_heads import NORMS, WITH_WEIGHTS, ClassificationHead, num_features
from mmdet_seg.probes.classify_inputs import EachOnce, FreshViews, Inputs, Reads, StoredViews
from mmdet_seg.probes.classify_loop import STATE, train
from mmdet_seg.probes.classify_train import RECIPES, HeadBank, Recipe
from mmdet_seg.probes.classify_views import Views
from mmdet_seg.probes.encoder_reader import Reader
from mmdet_seg.probes.imagenet_sets import EvalSet
from mmdet_seg.probes.logistic_regression import STRENGTHS, fit
from mmdet_seg.probes.nearest_neighbours import NUM_NEIGHBOURS, NearestNeighbours
from mmdet_seg.probes.segment_grid import parse_layers, parse_numbers
from mmdet_seg.probes.weights_hash import hash_of

BEST = 'best_head.safetensors'


@dataclass
class Task:
    """Everything that a protocol works with.

    Attributes:
        args: Of the command line.
        data: To fit on, and the test images.
        sets: To test on; the first is the data's own.
        reader: The encoder.
        views: Of the test images.
        folder: Of the run.
        notes: What a reader of the results must know, added to on the way.
        curves: Likewise.
    """

    args: argparse.Namespace
    data: ClassificationData
    sets: list[EvalSet]
    reader: Reader
    views: Views
    folder: Path
    notes: list[str] = field(default_factory=list)
    curves: dict[str, dict] = field(default_factory=dict)

    def chunks(self, reads: Reads) -> list[EachOnce]:
        """The features of every set."""
        store = Path(self.args.store)
        return [
            EachOnce(self.reader, s.images, self.views, reads, store, f'features of {s.name}')
            for s in self.sets
        ]

    def test(self, scorers: Sequence[Scorer], chunks: Sequence[EachOnce]) -> dict[str, dict]:
        """Classifier to set to outcome."""
        found: dict[str, dict[str, Outcome]] = {}
        for where, features in zip(self.sets, chunks, strict=True):
            for name, outcome in evaluate(scorers, features, where).items():
                found.setdefault(name, {})[where.name] = outcome
        return found


@dataclass
class Fitted:
    """A row of the results.

    Attributes:
        name: Unique.
        settings: What else a row keeps.
        outcomes: By set; empty where it failed.
        failed: Why, in a few words.
    """

    name: str
    settings: dict[str, Any]
    outcomes: dict[str, Outcome]
    failed: str = ''


def fit_rows(task: Task) -> Iterator[Fitted]:
    """Fit and test what the arguments ask for.

    Raises:
        ValueError: Arguments that do not go together.
    """
    if task.args.head:
        yield from _head_rows(task)
    elif task.args.protocol == 'knn':
        yield from _knn_rows(task)
    elif task.args.protocol == 'logreg':
        yield from _logreg_rows(task)
    else:
        yield from _trained_rows(task)


def _scorer(heads: Mapping[str, tuple[ClassificationHead, Sequence[int]]]) -> Scorer:
    def score(inputs: Inputs) -> dict[str, Tensor]:
        return {n: h(inputs.of(layers, h.pooling)) for n, (h, layers) in heads.items()}

    return score


def _head_rows(task: Task) -> Iterator[Fitted]:
    args, encoder = task.args, task.reader.encoder
    state, facts = read_head_state(args.head)
    head = head_from(state, facts, num_heads=encoder.num_heads).to(encoder.device)
    if head.head.out_features != len(task.data.classes):
        raise ValueError(
            f'{args.head} tells {head.head.out_features} classes apart, {task.data.name} has '
            f'{len(task.data.classes)}; they must be the same.'
        )
    layers = encoder.check_layers(list(facts.layers) or [-1])
    has_token = encoder.num_prefix_tokens > 0
    width = encoder.embed_dim
    if head.pooling in WITH_WEIGHTS:
        pool_of = head.attn_pooling if head.pooling == 'attention_pooling' else head.clip_projector
        found = pool_of.norm1_q.weight.shape[0]
    else:
        width = num_features(width, len(layers), head.pooling, has_token)
        found = head.head.in_features
    if width != found:
        raise ValueError(
            f'{args.head} reads {found} features, {encoder.name} gives {width}: it is of another '
            'encoder.'
        )
    if facts.encoder and facts.encoder != encoder.identity:
        task.notes.append('The head was trained on other weights of the encoder than these.')
    if facts.size and facts.size != task.views.size:
        task.notes.append(f'The head was trained at {facts.size} pixels.')
    if list(facts.classes) and list(facts.classes) != task.data.classes:
        task.notes.append("The head's classes have other names than the data's.")
    reads = Reads.of([(layers, head.pooling)])
    name = Path(args.head).stem
    found = task.test([_scorer({name: (head, layers)})], task.chunks(reads))
    settings = _settings(layers, head.pooling, 'bn' if 'norm.weight' in state else 'none')
    yield Fitted(name, settings, found[name])


def _trained_rows(task: Task) -> Iterator[Fitted]:
    args, data, reader = task.args, task.data, task.reader
    encoder, store = reader.encoder, Path(args.store)
    recipe = _recipe(args)
    probes = _probes(args, encoder)
    projector = None
    if any(p.pooling == 'clip_projector' for p in probes):
        projector = read_projector(args.projector or args.encoder)
    steps = recipe.num_steps(len(data.train))
    views = replace(task.views, augmented=True, mixup=recipe.mixup, cutmix=recipe.cutmix)
    reads = Reads.of((p.layers, p.pooling) for p in probes)
    bank = HeadBank(probes, recipe, encoder, len(data.classes), steps, projector)
    batch = recipe.batch
    if args.views:
        source = StoredViews(reader, data.train, views, reads, batch, args.views, store)
    else:
        source = FreshViews(reader, data.train, views, reads, batch)
    _training_notes(task, recipe, probes)
    chunks = task.chunks(reads)
    layers = {p.name: p.layers for p in probes}

    def scorer(bank: HeadBank) -> Scorer:
        heads = {
            p.name: (h, p.layers)
            for p, h in zip(bank.probes, bank.to_test(), strict=True)
            if p.name not in bank.failed
        }
        return _scorer(heads)

    def test() -> dict[str, float]:
        found = evaluate([scorer(bank)], chunks[0], task.sets[0])
        return {name: outcome.top1 for name, outcome in found.items()}

    key = hash_of(
        encoder.identity,
        reader.final_norm,
        data.train.identity,
        repr(recipe),
        repr(probes),
        repr(views),
        args.views,
        steps,
    )
    # Tokens are not stored, so that every test would run the encoder.
    task.curves.update(train(bank, source, task.folder, key, None if reads.tokens else test))
    outcomes = task.test([scorer(bank)], chunks)
    heads = dict(zip(layers, bank.to_test(), strict=True))
    if outcomes:
        best = max(outcomes, key=lambda n: outcomes[n]['val'].top1)
        probe = next(p for p in probes if p.name == best)
        _save(task, heads[best], probe.layers, best)
    for probe in probes:
        failed = bank.failed.get(probe.name)
        settings = {
            **_settings(probe.layers, probe.pooling, probe.norm),
            'lr': probe.lr,
            'lr_of_batch': bank.rate(probe),
            'weight_decay': probe.weight_decay,
            'seed': probe.seed,
            'batch': recipe.batch,
            'epochs': recipe.epochs,
        }
        why = '' if failed is None else f'loss not finite at step {failed}'
        yield Fitted(probe.name, settings, outcomes.get(probe.name, {}), why)
    (task.folder / STATE).unlink(missing_ok=True)


def _knn_rows(task: Task) -> Iterator[Fitted]:
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
            settings = {**_settings(layers, pooling, 'l2'), 'k': k}
            yield Fitted(name, {**settings, 'temperature': args.temperature}, found[name])
            command_line.note(f'{name}: {found[name]["val"].top1:.2f}')


def _logreg_rows(task: Task) -> Iterator[Fitted]:
    args, data, best = task.args, task.data, -1.0
    strengths = parse_numbers('--C', args.C, float) or list(STRENGTHS)
    if min(strengths) <= 0:
        raise ValueError(f'--C {args.C}: numbers above 0.')
    task.notes.append(
        'C was chosen on a tenth of the training images, held out; channels have mean 0 and '
        'deviation 1.'
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
        outcomes = task.test([_scorer({name: (head, layers)})], chunks)[name]
        settings = {
            **_settings(layers, pooling, 'standard'),
            'C': found.C,
            'held_out': {f'{c:g}': v for c, v in found.held_out.items()},
            'converged': found.converged,
        }
        top1 = outcomes['val'].top1
        command_line.note(f'{name}: {top1:.2f} (C {found.C:g})')
        if top1 > best:
            best = top1
            _save(task, head, layers, name)
        yield Fitted(name, settings, outcomes)


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


def _recipe(args: argparse.Namespace) -> Recipe:
    recipe = RECIPES[args.protocol]
    names = ('epochs', 'batch', 'mixup', 'cutmix', 'smoothing', 'ema')
    changed = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    recipe = replace(recipe, **changed)
    return replace(recipe, warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2))


def _probes(args: argparse.Namespace, encoder: Any) -> list:
    pools = poolings(
        args.pool,
        ('cls_patch_concat',) if args.protocol == 'internvit' else ('class', 'cls_patch_concat'),
        encoder,
    )
    rates = parse_numbers('--lr', args.lr, float)
    decays = parse_numbers('--weight-decay', args.weight_decay, float)
    seeds = parse_numbers('--seeds', args.seeds, int)
    if args.protocol == 'dinov2':
        if args.layers:
            raise ValueError('--layers: dinov2 joins the last blocks; say how many: --last-blocks.')
        blocks = parse_numbers('--last-blocks', args.last_blocks, int)
        return dinov2_probes(encoder, blocks, pools, rates, decays, seeds)
    layers = parse_layers(args.layers, encoder) if args.layers else None
    norms = parse_words('--norm', args.norm, NORMS)
    return internvit_probes(encoder, layers, pools, norms, rates, decays, seeds)


def _training_notes(task: Task, recipe: Recipe, probes: list) -> None:
    if task.args.views:
        task.notes.append(
            f'Features of {task.args.views} fixed views of each image; a run that draws new views '
            'at every step scores otherwise.'
        )
    if recipe != RECIPES[task.args.protocol]:
        usual = RECIPES[task.args.protocol]
        names = [n for n in recipe.__dataclass_fields__ if n != 'warmup_epochs']
        changed = [
            f'{n} {getattr(recipe, n):g} ({getattr(usual, n) or 0:g})'
            for n in names
            if getattr(recipe, n) != getattr(usual, n)
        ]
        if changed:
            task.notes.append(f'Other than published: {", ".join(changed)}.')
    if any(p.norm == 'none' for p in probes) and recipe.name == 'internvit':
        task.notes.append(
            'Heads without the batch norm: the authors report that theirs did not learn.'
        )
    if len(probes) > 1:
        task.notes.append(
            f'The best of {len(probes)} heads is the best on the test images themselves, as in '
            "DINOv2's evaluation: expect a little less on new ones."
        )


def _settings(layers: Sequence[int], pooling: str, norm: str) -> dict[str, Any]:
    return {
        'layers': list(layers),
        'combine': pooling,
        'norm': norm,
        'lr': None,
        'weight_decay': None,
        'seed': None,
    }


def _save(task: Task, head: ClassificationHead, layers: Sequence[int], name: str) -> None:
    encoder = task.reader.encoder
    num_heads = 0
    if head.pooling in WITH_WEIGHTS:
        part = head.attn_pooling if head.pooling == 'attention_pooling' else head.clip_projector
        num_heads = part.cross_attn.num_heads
    facts = HeadFacts(
        tuple(layers),
        head.pooling,
        tuple(task.data.classes),
        encoder.identity,
        num_heads,
        task.reader.final_norm,
        task.views.size,
    )
    save_head(task.folder / BEST, head, facts)
