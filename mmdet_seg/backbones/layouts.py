"""Names and shapes of an encoder's tensors in every published layout.

Three namings exist. Ours is the authors' ``.pth`` one, which timm shares; InternViT, InternVL-Chat
and InternVL-14B repositories name tensors as the authors' remote code does; transformers has its
own names and keeps queries, keys and values apart. Each occurs bare or below a prefix
(``backbone.``, ``vision_model.``, ``model.vision_tower.``), which is found rather than listed.

Shapes: D channels, M hidden channels of the MLP, N patches of a native image, K prefix tokens, P
pixels along one side of a patch.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmdet_seg.backbones.variants import Arch

_LEAVES = (
    'norm1.weight',
    'norm1.bias',
    'attn.qkv.weight',
    'attn.qkv.bias',
    'attn.q_norm.weight',
    'attn.k_norm.weight',
    'attn.proj.weight',
    'attn.proj.bias',
    'ls1.gamma',
    'norm2.weight',
    'norm2.bias',
    'mlp.fc1.weight',
    'mlp.fc1.bias',
    'mlp.fc2.weight',
    'mlp.fc2.bias',
    'ls2.gamma',
)
_STEM = ('cls_token', 'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias')
# peft's names around an adapted layer, and our buffer that holds alpha / rank.
_BASE = '.base_layer.'
_ADAPTER = re.compile(r'(.+)\.lora_([AB])\.\w+\.weight')
LORA_SCALE = 'lora_scale'
# What other plain ViTs have beside these names; left out, it would change the result.
_FOREIGN = ('reg_token', 'register_tokens', 'dist_token', 'norm_pre', 'rope')


@dataclass(frozen=True)
class Naming:
    """One way to name the tensors.

    Attributes:
        name: Short name.
        blocks: Name of the list of blocks.
        stem: Our name -> theirs, outside the blocks; a name that is absent is theirs too.
        leaves: Our name -> theirs, inside a block; three names where the tensor is kept in thirds.
        aliases: Further stored names inside a block -> our name.
    """

    name: str
    blocks: str
    stem: Mapping[str, str] = field(default_factory=dict)
    leaves: Mapping[str, str | tuple[str, str, str]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def stored(self, name: str) -> tuple[str, ...]:
        """Stored names of our ``name``: one, or three where q, k and v are apart."""
        match = re.fullmatch(r'blocks\.(\d+)\.(.+)', name)
        if match is None:
            return (self.stem.get(name, name),)
        theirs = self.leaves.get(match[2], match[2])
        parts = (theirs,) if isinstance(theirs, str) else theirs
        return tuple(f'{self.blocks}.{match[1]}.{part}' for part in parts)

    @property
    def anchor(self) -> str:
        """A stored name that every encoder in this naming has."""
        return self.stored('patch_embed.proj.weight')[0]


OURS = Naming('ours', 'blocks')
REMOTE_CODE = Naming(
    'remote code',
    'encoder.layers',
    stem={
        'cls_token': 'embeddings.class_embedding',
        'pos_embed': 'embeddings.position_embedding',
        'patch_embed.proj.weight': 'embeddings.patch_embedding.weight',
        'patch_embed.proj.bias': 'embeddings.patch_embedding.bias',
    },
    leaves={'ls1.gamma': 'ls1', 'ls2.gamma': 'ls2'},
)
_ATTENTION = 'attention.{}_proj.{}'
NATIVE = Naming(
    'native',
    'encoder.layer',
    stem={
        'cls_token': 'embeddings.cls_token',
        'pos_embed': 'embeddings.position_embeddings',
        'patch_embed.proj.weight': 'embeddings.patch_embeddings.projection.weight',
        'patch_embed.proj.bias': 'embeddings.patch_embeddings.projection.bias',
    },
    leaves={
        'norm1.weight': 'layernorm_before.weight',
        'norm1.bias': 'layernorm_before.bias',
        'norm2.weight': 'layernorm_after.weight',
        'norm2.bias': 'layernorm_after.bias',
        'ls1.gamma': 'lambda_1',
        'ls2.gamma': 'lambda_2',
        'attn.proj.weight': 'attention.projection_layer.weight',
        'attn.proj.bias': 'attention.projection_layer.bias',
        'attn.q_norm.weight': 'attention.q_norm.weight',
        'attn.k_norm.weight': 'attention.k_norm.weight',
        'attn.qkv.weight': tuple(_ATTENTION.format(part, 'weight') for part in 'qkv'),
        'attn.qkv.bias': tuple(_ATTENTION.format(part, 'bias') for part in 'qkv'),
    },
    # The authors' own converter (internvl_custom2hf.py) leaves these two as they were.
    aliases={f'attn.{part}_norm.weight': f'attn.{part}_norm.weight' for part in 'qk'},
)
NAMINGS = (OURS, REMOTE_CODE, NATIVE)


@dataclass(frozen=True)
class KeyMap:
    """Where the encoder is among the keys of a checkpoint.

    Attributes:
        naming: How its tensors are named.
        prefix: What stands before every one of its names, with the dot.
        sources: Our name -> stored keys (three where q, k and v are apart).
        other_keys: Keys of other parts: language model, projector, heads, pyramid, adapter.
        unexpected: Keys inside the encoder that no InternViT has.
        adapters: Stored key of an adapted weight -> stored keys of its adapter, down and up.
        scale: Stored key of what the adapters are multiplied by; None where there is none.
    """

    naming: Naming
    prefix: str
    sources: dict[str, tuple[str, ...]]
    other_keys: tuple[str, ...]
    unexpected: tuple[str, ...]
    adapters: dict[str, tuple[str, str]] = field(default_factory=dict)
    scale: str | None = None


def locate_encoder(keys: Iterable[str]) -> KeyMap | None:
    """Find the encoder among the keys of a checkpoint; None where there is none.

    Raises:
        ValueError: There are several, so that one would have to be guessed.
    """
    keys = list(keys)
    found = [
        (naming, key[: -len(naming.anchor)])
        for naming in NAMINGS
        for key in keys
        if key == naming.anchor or key.endswith('.' + naming.anchor)
    ]
    if not found:
        return None
    if len(found) > 1:
        places = ', '.join(repr(prefix) for _, prefix in found)
        raise ValueError(f'{len(found)} encoders below {places}; keep one in a file of its own.')
    naming, prefix = found[0]
    lookup = {stored: (name, i) for name in _STEM for i, stored in enumerate(naming.stored(name))}
    block = re.compile(re.escape(naming.blocks) + r'\.(\d+)\.(.+)')
    in_block = {}  # stored leaf -> (our leaf, index of the third)
    for leaf in _LEAVES:
        for i, stored in enumerate(naming.stored(f'blocks.0.{leaf}')):
            in_block[stored.removeprefix(f'{naming.blocks}.0.')] = (leaf, i)
    for stored, leaf in naming.aliases.items():
        in_block.setdefault(stored, (leaf, 0))

    parts: dict[str, dict[int, str]] = {}
    halves: dict[str, dict[str, str]] = {}  # adapted weight -> A and B
    others, unexpected, scale = [], [], None
    for key in keys:
        if not key.startswith(prefix):
            others.append(key)
            continue
        inner = key[len(prefix) :]
        if adapter := _ADAPTER.fullmatch(inner):
            pair = halves.setdefault(f'{prefix}{adapter[1]}{_BASE}weight', {})
            if pair.setdefault(adapter[2], key) != key:  # two adapters on one layer
                unexpected.append(key)
            continue
        if inner == LORA_SCALE:
            scale = key
            continue
        inner = inner.replace(_BASE, '.')
        match = block.fullmatch(inner)
        if match is not None:
            leaf = in_block.get(match[2])
            thirds = parts.setdefault(f'blocks.{match[1]}.{leaf[0]}', {}) if leaf else {}
            if leaf is None or leaf[1] in thirds:  # unknown, or there under both of its names
                unexpected.append(key)
            else:
                thirds[leaf[1]] = key
        elif inner in lookup:
            parts.setdefault(lookup[inner][0], {})[lookup[inner][1]] = key
        elif inner.split('.')[0] in _FOREIGN:
            unexpected.append(key)
        else:
            others.append(key)
    sources = {}
    for name, stored in parts.items():
        wanted = naming.stored(name)
        if len(stored) == len(wanted):
            sources[name] = tuple(stored[i] for i in range(len(wanted)))
        # else: a third is missing; the name then counts as missing, and is reported as such
    weights = {key for stored in sources.values() for key in stored}
    adapters = {}
    for weight, pair in halves.items():
        if weight in weights and len(pair) == 2:
            adapters[weight] = (pair['A'], pair['B'])
        else:
            unexpected += pair.values()
    return KeyMap(naming, prefix, sources, tuple(others), tuple(unexpected), adapters, scale)


def unwrapped(name: str) -> str | None:
    """Our name of a tensor in an encoder that may hold adapters; None for the adapters' own."""
    return None if '.lora_' in name or name == LORA_SCALE else name.replace(_BASE, '.')


def wrapped(name: str) -> str:
    """What :func:`unwrapped` has undone, for a layer with an adapter."""
    layer, _, leaf = name.rpartition('.')
    return f'{layer}{_BASE}{leaf}'


def expected_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of an encoder, under our names, in the order of the forward pass."""
    dim, hidden, rows = arch.embed_dim, arch.mlp_dim, arch.num_prefix_tokens + arch.grid_size**2
    shapes: dict[str, tuple[int, ...]] = {}
    if arch.num_prefix_tokens:
        shapes['cls_token'] = (1, 1, dim)
    shapes['pos_embed'] = (1, rows, dim)  # (1, K + N, D)
    shapes['patch_embed.proj.weight'] = (dim, 3, arch.patch_size, arch.patch_size)  # (D, 3, P, P)
    shapes['patch_embed.proj.bias'] = (dim,)
    leaves: dict[str, tuple[int, ...]] = dict.fromkeys(_LEAVES, (dim,))
    leaves['attn.qkv.weight'] = (3 * dim, dim)
    leaves['attn.qkv.bias'] = (3 * dim,)
    leaves['attn.proj.weight'] = (dim, dim)
    leaves['mlp.fc1.weight'] = (hidden, dim)  # (M, D)
    leaves['mlp.fc1.bias'] = (hidden,)
    leaves['mlp.fc2.weight'] = (dim, hidden)
    absent = set()
    if arch.norm == 'rms':
        absent |= {'norm1.bias', 'norm2.bias'}
    if not arch.qkv_bias:
        absent.add('attn.qkv.bias')
    if not arch.qk_norm:
        absent |= {'attn.q_norm.weight', 'attn.k_norm.weight'}
    for i in range(arch.depth):
        shapes |= {f'blocks.{i}.{k}': v for k, v in leaves.items() if k not in absent}
    return shapes


def block_index(name: str) -> int | None:
    """Block that our ``name`` belongs to; None outside the blocks."""
    match = re.match(r'blocks\.(\d+)\.', name)
    return None if match is None else int(match[1])


def first_few(names: Iterable[str], num: int = 3) -> str:
    """``a, b, c and 12 more``: names for one line of a message."""
    names = list(names)
    more = f' and {len(names) - num} more' if len(names) > num else ''
    return ', '.join(names[:num]) + more


def group_keys(keys: Iterable[str], prefix: str = '') -> str:
    """Keys grouped by their first name: ``language_model (291), mlp1 (6)``.

    Args:
        keys: Stored keys.
        prefix: What stands before the encoder's names; keys beside it are grouped one name deeper.
    """
    head = prefix.split('.')[0]
    counts = Counter('.'.join(k.split('.')[: 2 if k.split('.')[0] == head else 1]) for k in keys)
    return ', '.join(f'{name} ({count})' for name, count in counts.items())
