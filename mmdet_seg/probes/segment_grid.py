"""From what a person types to a grid of probes under a protocol."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mmengine.config import DictAction

from mmdet_seg.backbones.variants import even_taps
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.probe_bank import NORMS, ProbeSpec
from mmdet_seg.probes.protocols import SHORT, Protocol, changes, get_protocol

_DEEP_6B = 48  # blocks of the encoder whose published tap is not the last


@dataclass(frozen=True)
class Grid:
    """What is trained.

    Attributes:
        specs: The probes.
        protocol: With everything that was changed.
        published: As it was published.
        notes: What a reader must know to compare, a sentence each.
    """

    specs: tuple[ProbeSpec, ...]
    protocol: Protocol
    published: Protocol
    notes: tuple[str, ...]


def parse_layers(text: str | None, encoder: FrozenEncoder) -> list[tuple[int, ...]]:
    """Layers of every probe.

    Args:
        text: ``2,3,5``, ``all``, ``even:4``, ``last:4``, ``2+5`` (their maps concatenated), or any
            of these with commas between; negative numbers count from the last block.
        encoder: Whose blocks they are.

    Raises:
        ValueError: Not a layer of this encoder.
    """
    found: list[tuple[int, ...]] = []
    for part in (text or '').split(','):
        name, _, number = part.strip().partition(':')
        if name == 'all' and not number:
            found += [(i,) for i in range(encoder.depth)]
        elif name in ('even', 'last') and number.isdigit() and 1 <= int(number) <= encoder.depth:
            count = int(number)
            taps = even_taps(encoder.depth, count)
            start = encoder.depth - count
            found += [(i,) for i in (taps if name == 'even' else range(start, encoder.depth))]
        else:
            found.append(_sum_of_layers(part, encoder))
    return list(dict.fromkeys(found))


def _sum_of_layers(text: str, encoder: FrozenEncoder) -> tuple[int, ...]:
    try:
        numbers = [int(x) for x in text.split('+')]
    except ValueError:
        raise ValueError(
            f'--layers {text}: give numbers (2,3,5), all, even:N, last:N with N up to '
            f'{encoder.depth}, or 2+5 to put maps together.'
        ) from None
    layers = encoder.check_layers(numbers)
    if len(set(layers)) < len(layers):
        raise ValueError(f'--layers {text}: one block is in it twice.')
    return layers


def parse_numbers(option: str, text: str | None, kind: type) -> list | None:
    """``1e-3,3e-4`` as a list; None as None.

    Raises:
        ValueError: Not numbers, or below 0.
    """
    if text is None:
        return None
    try:
        found = [kind(x) for x in str(text).split(',')]
        if min(found) < 0 or not all(abs(x) < float('inf') for x in found):
            raise ValueError
    except ValueError:
        what = 'whole numbers' if kind is int else 'numbers'
        raise ValueError(
            f'{option} {text}: give {what} of at least 0 with commas between.'
        ) from None
    return list(dict.fromkeys(found))


def resolve_protocol(
    name: str, encoder: FrozenEncoder, *, short: bool, overrides: dict[str, object]
) -> Protocol:
    """A protocol with what this run changes.

    Args:
        name: Of the protocol.
        encoder: Its patch decides which crops there are.
        short: Lengths for two cores, see :data:`protocols.SHORT`.
        overrides: Field -> value, None where it stays.

    Raises:
        ValueError: No such protocol, or a value that makes no sense.
    """
    found = published = get_protocol(name)
    if short:
        found = replace(found, **SHORT, lr=found.short_lr or found.lr)
    given = {k: v for k, v in overrides.items() if v is not None}
    if 'crop' in given:  # what goes with it keeps its share
        share = given['crop'] / published.crop
        given['stride'] = max(1, round(published.stride * share))
        if published.short_side is not None:
            given['short_side'] = max(1, round(published.short_side * share))
    if 'iters' in given and 'warmup' not in given:
        given['warmup'] = min(found.warmup, -(-given['iters'] * found.warmup // found.iters))
    found = replace(found, **given)
    for key in ('iters', 'batch', 'crop', 'stride'):
        if getattr(found, key) < 1:
            raise ValueError(f'--{key} {getattr(found, key)} is not a whole number of at least 1.')
    if not 0 <= found.dropout < 1:
        raise ValueError(f'--dropout {found.dropout:g} is not a share of at least 0 and below 1.')
    if found.padding != 'centre':
        found = replace(found, crop=-(-found.crop // encoder.patch_size) * encoder.patch_size)
    if found.final_norm and not encoder.has_final_norm:
        if overrides.get('final_norm'):
            raise ValueError(f'--final-norm: {encoder.name} has no final norm; leave it out.')
        found = replace(found, final_norm=False)
    return found


def make_grid(
    encoder: FrozenEncoder,
    protocol: Protocol,
    *,
    layers: str | None = None,
    norms: str | None = None,
    lr: Sequence[float] | None = None,
    weight_decay: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
) -> Grid:
    """All combinations of what was asked for; the protocol's own value where nothing was.

    Raises:
        ValueError: A layer or norm that there is not.
    """
    published = get_protocol(protocol.name)
    tap = protocol.layers % encoder.depth
    if protocol.layers_6b is not None and encoder.depth == _DEEP_6B:
        tap = protocol.layers_6b
    chosen = parse_layers(layers, encoder) if layers else [(tap,)]
    chosen_norms = list(dict.fromkeys((norms or protocol.norm).split(',')))
    for norm in chosen_norms:
        if norm not in NORMS:
            raise ValueError(f'--norms {norm}: there are {", ".join(NORMS)}.')
    rates = list(lr or [protocol.lr])
    decays = list([protocol.weight_decay] if weight_decay is None else weight_decay)
    specs = tuple(
        ProbeSpec(taps, norm, rate, decay, seed, protocol.dropout, protocol.init_std)
        for taps, norm, rate, decay, seed in product(chosen, chosen_norms, rates, decays, seeds)
    )
    notes = [f'Protocol {protocol.name}: {published.source}.']
    # The grid's own values are in the rows; strides are of windows.
    same = {k: getattr(published, k) for k in ('lr', 'weight_decay', 'norm')}
    if protocol.test == 'whole':
        same['stride'] = published.stride
    if differences := changes(replace(protocol, **same), published):
        notes.append(f'Other than the protocol: {"; ".join(differences)}.')
    else:
        notes.append('Lengths, crop and test are those of the protocol.')
    for what, tried, theirs in (
        ('layer', chosen, (tap,)),
        ('norm', chosen_norms, published.norm),
        ('rate', rates, published.lr),
        ('weight decay', decays, published.weight_decay),
    ):
        if theirs not in tried:
            text = '+'.join(map(str, theirs)) if isinstance(theirs, tuple) else theirs
            notes.append(f"The protocol's {what}, {text}, is not among those tried.")
    if published.final_norm and not encoder.has_final_norm:
        notes.append(f'{encoder.name} has no final norm for the one that the protocol asks for.')
    return Grid(specs, protocol, published, tuple(notes))


def parse_options(words: list[str] | None) -> dict[str, Any] | None:
    """``KEY=VALUE`` as ``tools/train.py`` reads them.

    Raises:
        ValueError: A word without ``=``.
    """
    if not words:
        return None
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    if wrong := [word for word in words if '=' not in word]:
        raise ValueError(f'--cfg-options {wrong[0]}: give KEY=VALUE.')
    return parser.parse_args(['--cfg-options', *words]).cfg_options
