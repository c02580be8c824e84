"""The protocols: fit classifiers on a frozen encoder's features and test them."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdet_seg.probes.classify_evaluate import Scorer, evaluate
from mmdet_seg.probes.classify_grid import (
    dinov2_probes,
    internvit_probes,
    parse_words,
    poolings,
)
from mmdet_seg.probes.classify_head_file import (
    head_from,
    read_head_state,
    read_projector,
)
from mmdet_seg.probes.classify_heads import NORMS, WITH_WEIGHTS, num_features
from mmdet_seg.probes.classify_inputs import FreshViews, Reads, StoredViews
from mmdet_seg.probes.classify_loop import STATE, train
from mmdet_seg.probes.classify_stored_fits import knn_rows, logreg_rows
from mmdet_seg.probes.classify_task import Fitted, Task, keep_head, scorer, settings
from mmdet_seg.probes.classify_train import RECIPES, HeadBank, Recipe
from mmdet_seg.probes.classify_views import Views
from mmdet_seg.probes.segment_grid import parse_layers, parse_numbers
from mmdet_seg.probes.weights_hash import hash_of


def fit_rows(task: Task) -> Iterator[Fitted]:
    """Fit and test what the arguments ask for.

    Raises:
        ValueError: Arguments that do not go together.
    """
    if task.args.head:
        yield from _head_rows(task)
    elif task.args.protocol == 'knn':
        yield from knn_rows(task)
    elif task.args.protocol == 'logreg':
        yield from logreg_rows(task)
    else:
        yield from _trained_rows(task)


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
    if args.final_norm is None:
        task.reader.final_norm = facts.final_norm
    reads = Reads.of([(layers, head.pooling)])
    name = Path(args.head).stem
    found = task.test([scorer({name: (head, layers)})], task.chunks(reads))
    kept = settings(layers, head.pooling, 'bn' if 'norm.weight' in state else 'none')
    yield Fitted(name, kept, found[name])


def _trained_rows(task: Task) -> Iterator[Fitted]:
    args, data, reader = task.args, task.data, task.reader
    encoder, store = reader.encoder, Path(args.store)
    recipe = _recipe(args)
    probes = _probes(args, encoder)
    projector = None
    if any(p.pooling == 'clip_projector' for p in probes):
        projector = read_projector(args.projector or args.encoder)
    steps = recipe.num_steps(len(data.train))
    views = replace(task.views, augmented=args.augment, mixup=recipe.mixup, cutmix=recipe.cutmix)
    reads = Reads.of((p.layers, p.pooling) for p in probes)
    bank = HeadBank(probes, recipe, encoder, len(data.classes), steps, projector)
    batch = recipe.batch
    count = args.views or (1 if views.same_each_time and not reads.tokens else 0)
    if count:
        source = StoredViews(reader, data.train, views, reads, batch, count, store)
    else:
        source = FreshViews(reader, data.train, views, reads, batch)
    _training_notes(task, recipe, probes, views)
    chunks = task.chunks(reads)
    layers = {p.name: p.layers for p in probes}

    def scorer_of(bank: HeadBank) -> Scorer:
        heads = {
            p.name: (h, p.layers)
            for p, h in zip(bank.probes, bank.to_test(), strict=True)
            if p.name not in bank.failed
        }
        return scorer(heads)

    def test() -> dict[str, float]:
        found = evaluate([scorer_of(bank)], chunks[0], task.sets[0])
        return {name: outcome.top1 for name, outcome in found.items()}

    key = hash_of(
        encoder.identity,
        reader.final_norm,
        data.train.identity,
        repr(recipe),
        repr(probes),
        repr(views),
        count,
        steps,
    )
    # Tokens are not stored, so that every test would run the encoder.
    on_the_way = None if reads.tokens else test
    go_on = getattr(args, 'compared_in', None)
    task.curves.update(train(bank, source, task.folder, key, on_the_way, go_on))
    outcomes = task.test([scorer_of(bank)], chunks)
    heads = dict(zip(layers, bank.to_test(), strict=True))
    if outcomes:
        best = max(outcomes, key=lambda n: outcomes[n]['val'].top1)
        probe = next(p for p in probes if p.name == best)
        keep_head(task, heads[best], probe.layers)
    for probe in probes:
        failed = bank.failed.get(probe.name)
        kept = {
            **settings(probe.layers, probe.pooling, probe.norm),
            'lr': probe.lr,
            'lr_of_batch': bank.rate(probe),
            'weight_decay': probe.weight_decay,
            'seed': probe.seed,
            'batch': recipe.batch,
            'epochs': recipe.epochs,
        }
        why = '' if failed is None else f'loss not finite at step {failed}'
        yield Fitted(probe.name, kept, outcomes.get(probe.name, {}), why)
    if go_on is None:
        (task.folder / STATE).unlink(missing_ok=True)


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


def _training_notes(task: Task, recipe: Recipe, probes: list, views: Views) -> None:
    if task.args.views and not views.same_each_time:
        task.notes.append(
            f'Features of {task.args.views} fixed view{"s" * (task.args.views > 1)} of each '
            'image; a run that draws new views at every step scores otherwise.'
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
    if not task.args.augment:
        task.notes.append('Other than published: no crops and flips in training.')
    if any(p.norm == 'none' for p in probes) and recipe.name == 'internvit':
        task.notes.append(
            'Heads without the batch norm: the authors report that theirs did not learn.'
        )
    if len(probes) > 1:
        task.notes.append(
            f'The best of {len(probes)} heads is the best on the test images themselves, as in '
            "DINOv2's evaluation: expect a little less on new ones."
        )
