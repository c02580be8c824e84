"""Heads in files: the authors' checkpoints, with or without the encoder, and ours.

Ours is a safetensors file with the same names and, as metadata, what the names do not tell.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmdet_seg.backbones.checkpoint_files import WeightFiles
from mmdet_seg.probes.classify_heads import CLIP_HEADS, ClassificationHead

_FORMAT = 'mmdet_seg classification head'
_POOLS = {'attn_pooling': 'attention_pooling', 'clip_projector': 'clip_projector'}
# Below which keys the tensors of a head lie in the authors' files and in averages of them.
_PARTS = ('norm.', 'head.', 'attn_pooling.', 'clip_projector.')


@dataclass
class HeadFacts:
    """What a head stands on.

    Attributes:
        layers: Blocks of the encoder, from 0, ascending; empty is its last block.
        pooling: One of ``POOLINGS``.
        classes: Their names; empty where the file does not say.
        encoder: Identity of the encoder that it was trained on, '' where the file does not say.
        num_heads: Of a pooling with weights; 0 is the encoder's own number.
        final_norm: Whether the encoder's last norm came before it.
        size: Side of the images in pixels; 0 where the file does not say.
    """

    layers: Sequence[int] = ()
    pooling: str = 'cls_patch_concat'
    classes: Sequence[str] = ()
    encoder: str = ''
    num_heads: int = 0
    final_norm: bool = False
    size: int = 0


def save_head(path: Path, head: ClassificationHead, facts: HeadFacts) -> Path:
    """Write a head, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    aside = path.with_name(f'.{path.name}.{os.getpid()}.part')
    facts = {**asdict(facts), 'layers': list(facts.layers), 'classes': list(facts.classes)}
    save_file(state, aside, metadata={'format': _FORMAT, 'facts': json.dumps(facts)})
    aside.replace(path)
    return path


def read_head_state(path: str | Path) -> tuple[dict[str, Tensor], HeadFacts]:
    """The head's tensors in a file, by name, and what they stand on.

    Args:
        path: A ``.pth`` of the authors (``norm.*``, ``head.*``, ``attn_pooling.*`` or
            ``clip_projector.*``, with the encoder or without it, below ``model`` or ``module`` or
            flat), or a file of :func:`save_head`.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: It is broken or holds no head.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist; name a file with a head.')
    files = WeightFiles(path)
    names = {k: k.removeprefix('module.') for k in files.owner}
    state = {
        name: files.of(key).read(key).clone()
        for key, name in names.items()
        if name.startswith(_PARTS)
    }
    if 'head.weight' not in state or state['head.weight'].ndim != 2:
        has = ', '.join(sorted(names.values())[:3])
        raise ValueError(
            f'{path} holds no classification head: there is no head.weight (it has {has}, ...). '
            'The authors publish intern_vit_6b_224px_head.pth.'
        )
    metadata = files.of(next(iter(names))).metadata
    if metadata.get('format') == _FORMAT:
        return state, HeadFacts(**json.loads(metadata['facts']))
    width = state['head.weight'].shape[1]
    # A checkpoint of the encoder has the clip projector whether its head stands on it or not.
    pooling = next((p for k, p in _POOLS.items() if _width(state, k) == width), 'cls_patch_concat')
    state = {k: v for k, v in state.items() if _POOLS.get(k.split('.')[0], pooling) == pooling}
    num_heads = CLIP_HEADS if pooling == 'clip_projector' else 0
    return state, HeadFacts(pooling=pooling, num_heads=num_heads)


def head_from(
    state: dict[str, Tensor], facts: HeadFacts, *, num_heads: int | None = None
) -> ClassificationHead:
    """A head in eval mode from what :func:`read_head_state` found.

    Args:
        state: Its tensors.
        facts: What it stands on.
        num_heads: Of the attention, where ``facts`` does not say: the encoder's.

    Raises:
        ValueError: Tensors are missing or do not fit together.
    """
    num_classes, width = state['head.weight'].shape
    pooled_dim, in_features = width, width
    if facts.pooling in _POOLS.values():
        part = next(k for k, v in _POOLS.items() if v == facts.pooling)
        in_features = state[f'{part}.norm1_q.weight'].shape[0]
    head = ClassificationHead(
        in_features,
        num_classes,
        facts.pooling,
        'bn' if 'norm.weight' in state else 'none',
        num_heads=facts.num_heads or num_heads or 1,
        pooled_dim=pooled_dim,
    )
    _load(head, state, 'The head')
    return head.float().eval()


def put_projector(head: ClassificationHead, state: dict[str, Tensor]) -> None:
    """Put what :func:`read_projector` found into a head.

    Raises:
        ValueError: It is of another size.
    """
    _load(head.clip_projector, state, 'The clip projector')


def read_projector(path: str | Path) -> dict[str, Tensor]:
    """Tensors of ``clip_projector.*`` in a checkpoint, without that prefix.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: It holds no projector.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist; --projector names the checkpoint with the clip projector.'
        )
    files, start = WeightFiles(path), 'clip_projector.'
    names = {k: k.removeprefix('module.') for k in files.owner}
    state = {
        name.removeprefix(start): files.of(key).read(key).clone().float()
        for key, name in names.items()
        if name.startswith(start)
    }
    if not state:
        raise ValueError(
            f'{path} holds no clip projector (clip_projector.*); the authors published it in '
            'intern_vit_6b_224px.pth.'
        )
    return state


def _width(state: dict[str, Tensor], part: str) -> int:
    weight = state.get(f'{part}.cross_attn.proj.weight')
    return -1 if weight is None else weight.shape[0]


def _load(module: torch.nn.Module, state: dict[str, Tensor], what: str) -> None:
    wanted = module.state_dict()
    # Files from before PyTorch 1.0 and averages do not count the batches.
    missing = [k for k in wanted if k not in state and not k.endswith('num_batches_tracked')]
    if missing:
        raise ValueError(f'{what} lacks {missing[0]} ({len(missing)} missing in all).')
    if extra := sorted(state.keys() - wanted.keys()):
        raise ValueError(f'{what} has {extra[0]}, which is no part of it.')
    for key in (k for k in wanted if k in state):
        if state[key].shape != wanted[key].shape:
            raise ValueError(
                f'{what}: {key} is {tuple(state[key].shape)}, its other tensors ask for '
                f'{tuple(wanted[key].shape)}.'
            )
    module.load_state_dict(state, strict=False)
