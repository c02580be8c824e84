"""Writing an encoder in the published layouts; what is written is complete or absent.

Tensors are asked for one at a time and written as they come, so that converting a 6 B model takes
the memory of one tensor (``pth`` excepted: ``torch.save`` wants all of them).
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.arch_config import native_config, remote_code_config, timm_config
from mmdet_seg.backbones.checkpoint_contents import ARCH_KEY, compare_shapes
from mmdet_seg.backbones.layouts import NATIVE, OURS, REMOTE_CODE, expected_shapes
from mmdet_seg.backbones.safetensors_stream import (
    TensorEntry,
    split_shards,
    write_safetensors,
)
from mmdet_seg.backbones.variants import Arch

LAYOUTS = ('native', 'hub', 'pth', 'timm', 'own')
MAX_SHARD_BYTES = 5 * 10**9  # as huggingface_hub splits
_NAMINGS = {'native': NATIVE, 'hub': REMOTE_CODE}
_SUFFIX = {'pth': '.pth', 'own': '.safetensors'}  # the other layouts are directories
_CONFIGS = {'native': native_config, 'hub': remote_code_config, 'timm': timm_config}

Progress = Callable[[int, int], None]


@dataclass
class EncoderTensors:
    """An encoder's tensors, to be read one by one.

    Attributes:
        arch: Shape of the encoder.
        dtypes: Our name -> dtype.
        read: Our name -> tensor of that dtype.
        release: Called now and then: what was read before is no longer needed.
    """

    arch: Arch
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    release: Callable[[], None] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(entry.num_bytes for entry in self.entries('own'))

    def entries(self, layout: str) -> list[TensorEntry]:
        """What a layout stores, under its names."""
        naming = _NAMINGS.get(layout, OURS)
        entries = []
        for name, shape in expected_shapes(self.arch).items():
            keys = naming.stored(name)
            for i, key in enumerate(keys):  # one, or q, k and v
                rows = (shape[0] // len(keys), *shape[1:])
                read = partial(self._part, name, i, len(keys))
                entries.append(TensorEntry(key, rows, self.dtypes[name], read))
        return entries

    def _part(self, name: str, index: int, num: int) -> Tensor:
        return self.read(name).chunk(num)[index]


def save_encoder(
    encoder_state: Mapping[str, Tensor],
    arch: Arch,
    out: str | os.PathLike,
    layout: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write an encoder's state dict (our names) in a published layout.

    Args:
        encoder_state: Our name -> tensor.
        arch: Shape of the encoder.
        out: A directory for ``native``, ``hub`` and ``timm``, a ``.pth`` file for ``pth``, a
            ``.safetensors`` file for ``own``.
        layout: One of :data:`LAYOUTS`.
        max_shard_bytes: Largest weight file of ``native`` and ``hub``.
        force: Replace what a previous call wrote to ``out``.
        progress: Called with bytes written and bytes in all.

    Raises:
        ValueError: A layout that does not exist or cannot hold this encoder, a state dict that is
            not this encoder's, something at ``out``, or too little disk.
    """
    compare_shapes(
        {name: tuple(tensor.shape) for name, tensor in encoder_state.items()},
        expected_shapes(arch),
        'The state dict is not that of the arch',
        'give both from one encoder.',
    )
    dtypes = {name: tensor.dtype for name, tensor in encoder_state.items()}
    tensors = EncoderTensors(arch, dtypes, encoder_state.__getitem__)
    write_encoder(tensors, out, layout, max_shard_bytes, force=force, progress=progress)


def write_encoder(
    tensors: EncoderTensors,
    out: str | os.PathLike,
    layout: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write an encoder's tensors; see :func:`save_encoder`."""
    out = Path(out)
    check_target(out, layout, force)
    _check_expressible(tensors.arch, layout)
    total, done = tensors.num_bytes, 0
    free = shutil.disk_usage(out.absolute().parent).free
    if free < 1.02 * total:
        raise ValueError(
            f'{out} needs {total / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free; make room.'
        )

    def advance(num_bytes: int) -> None:
        nonlocal done
        if tensors.release is not None and done // 2**30 != (done + num_bytes) // 2**30:
            tensors.release()
        done += num_bytes
        if progress is not None:
            progress(done, total)

    with _aside(out) as partial_out:
        if layout == 'pth':
            _write_pth(partial_out, tensors, advance)
        elif layout == 'own':
            metadata = {'format': 'pt', ARCH_KEY: json.dumps(tensors.arch.to_dict())}
            write_safetensors(partial_out, tensors.entries(layout), metadata, advance)
        else:
            partial_out.mkdir()
            limit = total if layout == 'timm' else max_shard_bytes
            _write_shards(partial_out, tensors.entries(layout), limit, advance)
            dtype = str(tensors.dtypes['blocks.0.attn.qkv.weight']).removeprefix('torch.')
            config = _CONFIGS[layout](tensors.arch, dtype)
            _write_json(partial_out / 'config.json', config)


def check_target(out: Path, layout: str, force: bool) -> None:
    """Refuse a target that cannot be written, before anything is read.

    Raises:
        ValueError: ``out`` is of the wrong kind for the layout, is there already, or has no parent.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r} is not one of {", ".join(LAYOUTS)}.')
    suffix = _SUFFIX.get(layout, '')
    if suffix and out.suffix != suffix:
        raise ValueError(f'{out} does not end in {suffix}: layout {layout!r} is one file.')
    if not suffix and out.suffix in ('.pth', '.pt', '.bin', '.safetensors'):
        raise ValueError(f'{out} looks like a file: layout {layout!r} is a directory.')
    if not out.absolute().parent.is_dir():
        raise ValueError(f'{out.parent} is not a directory; make it first.')
    if not out.exists():
        return
    if not force:
        raise ValueError(f'{out} is there already; choose another place or add --force.')
    if out.is_dir() == bool(suffix) or (out.is_dir() and (foreign := _foreign(out))):
        what = f'{foreign[0]} in it is' if out.is_dir() and not suffix else 'it is'
        raise ValueError(f'{out} cannot be replaced: {what} not of this layout; remove it first.')


def _check_expressible(arch: Arch, layout: str) -> None:
    """Refuse a layout whose readers would compute something else."""
    why = ''
    if layout in ('native', 'hub', 'timm') and not arch.num_prefix_tokens:
        why = 'num_prefix_tokens=0, and its models always have a class token'
    elif layout == 'native' and arch.qk_norm and arch.norm_eps != 1e-6:
        why = f'norm_eps={arch.norm_eps}, and its QK-norm always uses 1e-06'
    elif layout == 'timm' and arch.norm != 'layer':
        why = f'norm={arch.norm!r}, and its model has layer norms'
    elif layout == 'timm' and arch.qk_norm:
        why = 'qk_norm=True, and its model normalises each head alone'
    elif layout == 'timm' and arch.norm_eps != 1e-6:
        why = f'norm_eps={arch.norm_eps}, and its model uses 1e-06'
    if why:
        other = 'native or hub' if layout == 'timm' and arch.num_prefix_tokens else 'pth or own'
        raise ValueError(f'layout {layout!r} cannot hold {why}; use {other}.')


def _write_pth(path: Path, tensors: EncoderTensors, advance: Callable[[int], None]) -> None:
    state = {}
    for entry in tensors.entries('pth'):
        tensor = entry.read()
        # torch.save writes whole storages; a view would drag the rest of its storage along.
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        state[entry.key] = tensor.detach() if whole else tensor.detach().clone()
        advance(entry.num_bytes)
    torch.save({'module': state}, path)


def _write_shards(
    folder: Path, entries: list[TensorEntry], limit: int, advance: Callable[[int], None]
) -> None:
    files, index = split_shards(entries, limit)
    if index is not None:
        _write_json(folder / 'model.safetensors.index.json', index)
    for name, shard in files.items():
        write_safetensors(folder / name, shard, {'format': 'pt'}, advance)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A place beside ``out`` to write to; it becomes ``out`` when all went well, else it goes."""
    partial_out = out.with_name(f'.{out.name}.partial-{os.getpid()}')
    old = out.with_name(f'.{out.name}.old-{os.getpid()}')
    try:
        yield partial_out
        if out.is_dir():  # a directory cannot be replaced in one step
            out.rename(old)
        partial_out.replace(out)
    finally:
        for rest in (partial_out, old):
            if rest.is_dir():
                shutil.rmtree(rest)
            else:
                rest.unlink(missing_ok=True)


def _foreign(folder: Path) -> list[str]:
    """Names in a directory that :func:`write_encoder` does not write."""
    ours = ('config.json', 'model.safetensors', 'model.safetensors.index.json')
    return sorted(
        p.name
        for p in folder.iterdir()
        if p.name not in ours and not (p.name.startswith('model-') and p.suffix == '.safetensors')
    )
