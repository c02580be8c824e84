"""Checkpoints of ViT-Adapters: ours, the original's and InternViT-Adapter's.

Ours keeps the encoder below ``encoder.``; both others mix its tensors with the adapter's, whose
names are the same everywhere. The original calls the layer scale ``gamma1`` and ``gamma2`` or has
none, which is a scale of one. Both keep a position for a class token that they do not have.
"""

import re
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from mmdet_seg.backbones.checkpoint_contents import compare_shapes
from mmdet_seg.backbones.layouts import first_few
from mmdet_seg.backbones.resampling import resample, resampled_tensors
from mmdet_seg.compat.torch_load import load_file

_ENCODER = re.compile(r'(blocks|patch_embed)\..+|pos_embed|cls_token')
_SCALE = re.compile(r'(.*blocks\.\d+\.)gamma([12])')
_ANCHOR = 'level_embed'  # every ViT-Adapter has it, and no encoder
_WRAPPERS = ('state_dict', 'module', 'model')


def is_foreign(names: Any, prefix: str = '') -> bool:
    """Whether these names, below ``prefix``, are those of another ViT-Adapter than ours."""
    return f'{prefix}{_ANCHOR}' in names and f'{prefix}patch_embed.proj.weight' in names


def our_name(name: str, prefix: str = '') -> str:
    """Our name of a tensor of a foreign ViT-Adapter; names outside ``prefix`` stay."""
    inner = name.removeprefix(prefix)
    if not name.startswith(prefix) or not _ENCODER.fullmatch(inner):
        return name
    return f'{prefix}encoder.' + _SCALE.sub(r'\1ls\2.gamma', inner)


def rename_in_place(
    state: dict[str, Any], adapter: nn.Module | None = None, prefix: str = ''
) -> None:
    """Make a state dict that is about to be loaded ours; one that is already stays as it is.

    Args:
        state: Names -> tensors.
        adapter: What it is for. Fills in what a foreign one has in another form: a scale of one
            where it has no layer scale, the position table without the class token's.
        prefix: What stands before the adapter's names.
    """
    if is_foreign(state, prefix):
        for name in list(state):
            if (ours := our_name(name, prefix)) != name:
                state[ours] = state.pop(name)
    if adapter is None or f'{prefix}encoder.patch_embed.proj.weight' not in state:
        return
    encoder, below = adapter.encoder, f'{prefix}encoder.'
    scales = [n for n in encoder.state_dict() if re.fullmatch(r'blocks\.\d+\.ls[12]\.gamma', n)]
    if not any(below + n in state for n in scales):
        like = state[below + 'patch_embed.proj.weight']
        for name in scales:
            state[below + name] = like.new_ones(encoder.embed_dim)
    table, K = state.get(below + 'pos_embed'), encoder.num_prefix_tokens
    if isinstance(table, Tensor) and table.shape[1] == encoder.pos_embed.shape[1] + 1 - K and not K:
        state[below + 'pos_embed'] = table[:, 1:]


def load_adapter(adapter: nn.Module, source: str | Path) -> None:
    """Load encoder and adapter from a file: all of it or a clear no.

    Heads and necks in the file are left unread; position table and patch kernel are resampled to
    the encoder's size.

    Args:
        adapter: A ``ViTAdapter``.
        source: ``.pth`` or ``.safetensors``, of the adapter or of a model around it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No ViT-Adapter in it, or one of another shape.
    """
    if not Path(source).is_file():
        raise FileNotFoundError(f'{source}: no such checkpoint of a ViT-Adapter.')
    safe = Path(source).suffix == '.safetensors'
    state: Any = load_safetensors(source) if safe else load_file(source)
    while isinstance(state, dict) and (key := next((k for k in _WRAPPERS if k in state), None)):
        state = state[key]
    names = state if isinstance(state, dict) else {}
    anchor = next((k for k in names if k == _ANCHOR or k.endswith(f'backbone.{_ANCHOR}')), None)
    if anchor is None:
        raise ValueError(
            f'{source} has no ViT-Adapter in it: no {_ANCHOR} among {len(names)} keys '
            f'({first_few(names)}); an encoder alone goes into encoder.init_cfg.'
        )
    prefix = anchor.removesuffix(_ANCHOR)
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    rename_in_place(state, adapter)
    _resample_in_place(state, adapter)
    own = adapter.state_dict()
    compare_shapes(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        {name: tuple(tensor.shape) for name, tensor in own.items()},
        f'{source} does not fit the ViT-Adapter',
        "norm='sync_bn' is the original's and norm='layer' InternViT-Adapter's; windows and "
        'relative positions of other encoders have no counterpart here.',
    )
    adapter.load_state_dict(state)
    print_log(f'ViTAdapter: {len(state)} tensors from {source}.', 'current')


def _resample_in_place(state: dict[str, Tensor], adapter: nn.Module) -> None:
    arch, below = adapter.encoder.arch, 'encoder.'
    shapes = {k.removeprefix(below): tuple(v.shape) for k, v in state.items()}
    if not {'pos_embed', 'patch_embed.proj.weight'} <= shapes.keys():
        return  # named as missing
    for name in resampled_tensors(shapes, arch):
        state[below + name] = resample(name, state[below + name], arch)
