"""From what a person types to the heads of a protocol."""

from collections.abc import Sequence
from itertools import product

from mmdet_seg.probes.classify_heads import POOLINGS, WITH_WEIGHTS
from mmdet_seg.probes.classify_train import Probe
from mmdet_seg.probes.frozen_encoder import FrozenEncoder

# dinov2/eval/linear.py: its 13 rates, for 256 images a batch, and how many last blocks are joined.
DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
DINOV2_BLOCKS = (1, 4)
INTERNVIT_RATE = 0.1  # for 512 images a batch


def parse_words(option: str, text: str, known: Sequence[str]) -> list[str]:
    """``a,b`` as a list of known words.

    Raises:
        ValueError: A word that is not known.
    """
    words = [w.strip() for w in text.split(',')]
    for word in words:
        if word not in known:
            raise ValueError(f'{option} {word}: there is {", ".join(known)}.')
    return list(dict.fromkeys(words))


def poolings(text: str | None, usual: Sequence[str], encoder: FrozenEncoder) -> list[str]:
    """What ``--pool`` means for an encoder; one without class token has mean patches only.

    Raises:
        ValueError: Not a pooling, or the class token of an encoder that has none.
    """
    has_token = encoder.num_prefix_tokens > 0
    found = list(usual) if text is None else parse_words('--pool', text, POOLINGS)
    if has_token:
        return found
    if text is not None and 'class' in found:
        raise ValueError(f'--pool class: {encoder.name} has no class token; take mean.')
    plain = {'class': 'mean', 'cls_patch_concat': 'mean'}
    return list(dict.fromkeys(plain.get(p, p) for p in found))


def default_layers(encoder: FrozenEncoder, count: int = 6) -> list[tuple[int, ...]]:
    """Blocks of a sweep that end with the last one: all of a few, else evenly spread."""
    if encoder.depth <= 2 * count:
        return [(i,) for i in range(encoder.depth)]
    return [(encoder.depth * (i + 1) // count - 1,) for i in range(count)]


def internvit_probes(
    encoder: FrozenEncoder,
    layers: Sequence[tuple[int, ...]] | None,
    pools: Sequence[str],
    norms: Sequence[str],
    rates: Sequence[float] | None,
    decays: Sequence[float],
    seeds: Sequence[int],
) -> list[Probe]:
    """All combinations; of the last block, with batch norm, at 0.1, where nothing is said.

    Raises:
        ValueError: Attention pooling over several blocks.
    """
    layers = layers or [(encoder.depth - 1,)]
    found = []
    for taps, pooling, norm, lr, decay, seed in product(
        layers, pools, norms, rates or [INTERNVIT_RATE], decays, seeds
    ):
        if pooling in WITH_WEIGHTS and len(taps) > 1:
            raise ValueError(f'--pool {pooling} reads one block, not {"+".join(map(str, taps))}.')
        found.append((taps, pooling, norm, lr, decay, seed))
    return _named(found)


def dinov2_probes(
    encoder: FrozenEncoder,
    blocks: Sequence[int],
    pools: Sequence[str],
    rates: Sequence[float] | None,
    decays: Sequence[float],
    seeds: Sequence[int],
) -> list[Probe]:
    """Rates x poolings x how many last blocks are joined, without a norm.

    Raises:
        ValueError: More blocks than there are, or a pooling with weights.
    """
    for count in blocks:
        if not 1 <= count <= encoder.depth:
            raise ValueError(f'--last-blocks {count}: {encoder.name} has {encoder.depth} blocks.')
    for pooling in pools:
        if pooling in WITH_WEIGHTS:
            raise ValueError(
                f'--pool {pooling} is not of this protocol; take --protocol internvit.'
            )
    taps = [tuple(range(encoder.depth - n, encoder.depth)) for n in blocks]
    rates = rates or DINOV2_RATES
    return _named(list(product(taps, pools, ['none'], rates, decays, seeds)))


def layer_name(layers: Sequence[int]) -> str:
    """``layer 5`` or ``layers 2+3+4``."""
    return f'layer{"s" * (len(layers) > 1)} {"+".join(map(str, layers))}'


def _named(settings: Sequence[tuple]) -> list[Probe]:
    """Probes whose names say what tells them apart, and always the layer and the rate."""
    several = [len({s[i] for s in settings}) > 1 for i in range(6)]
    found = []
    for layers, pooling, norm, lr, decay, seed in settings:
        words = [layer_name(layers), pooling, f'lr {lr:g}']
        words += [norm] if several[2] else []
        words += [f'wd {decay:g}'] if several[4] else []
        words += [f'seed {seed}'] if several[5] else []
        found.append(Probe(', '.join(words), layers, pooling, norm, lr, decay, seed))
    return found
