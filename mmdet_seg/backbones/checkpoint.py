"""Reading an encoder's weights from any published layout.

:func:`open_checkpoint` finds the encoder in a file, directory or hub repository without reading
weights; :func:`load_encoder` streams them into a model. Peak memory is the finished model plus
about 1 GB of mapped file, so that the authors' single 12 GB files load where 24 GB do not fit.

Shapes: D channels, N patches, K prefix tokens, P pixels along one side of a patch.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdet_seg.backbones.arch_config import describes_encoder, fields_from_config
from mmdet_seg.backbones.checkpoint_contents import Checkpoint, compare_shapes
from mmdet_seg.backbones.checkpoint_files import WeightFiles
from mmdet_seg.backbones.checkpoint_source import locate_source, read_config
from mmdet_seg.backbones.layouts import block_index, group_keys
from mmdet_seg.backbones.left_out import read_left_out
from mmdet_seg.backbones.lora import plain_targets
from mmdet_seg.backbones.resampling import resample, resampled_tensors
from mmdet_seg.backbones.run_folder import RunFiles, is_run_folder
from mmdet_seg.backbones.variants import ARCHS, Arch, get_arch


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_encoder` did.

    Attributes:
        layout: Layout of the checkpoint.
        num_loaded: Tensors now in the encoder.
        resampled: What was resampled, as ``name old -> new``.
        skipped_blocks: Stored blocks that the encoder does not have.
        skipped_names: Other stored tensors of the encoder that this one does not have.
        other_keys: Stored keys of other parts.
        prefix: What stands before the encoder's stored names.
        seconds: Wall time.
        merged: Weights that took an adapter of the checkpoint in.
    """

    layout: str
    num_loaded: int
    resampled: tuple[str, ...]
    skipped_blocks: tuple[int, ...]
    skipped_names: tuple[str, ...]
    other_keys: tuple[str, ...]
    prefix: str
    seconds: float
    merged: int = 0

    def summary(self) -> str:
        """The report in one line."""
        parts = [f'{self.num_loaded} tensors from layout {self.layout!r} in {self.seconds:.1f} s']
        if self.merged:
            parts.append(f'LoRA adapters merged into {self.merged} of them')
        if self.resampled:
            parts.append('resampled ' + ', '.join(self.resampled))
        if self.skipped_blocks:
            parts.append('left unread: blocks ' + ', '.join(map(str, self.skipped_blocks)))
        if self.skipped_names:
            parts.append('left unread: ' + ', '.join(self.skipped_names))
        if self.other_keys:
            parts.append('not of the encoder: ' + group_keys(self.other_keys, self.prefix))
        return '; '.join(parts) + '.'


def open_checkpoint(
    source: str | os.PathLike, arch_overrides: dict[str, Any] | None = None
) -> Checkpoint:
    """Find an encoder's weights, in whatever published layout they are; reads no weights yet.

    Args:
        source: A file, a directory, a hub id ``owner/name[@revision]``, a file on a hub
            ``owner/name/file.pth[@revision]``, a name in :data:`variants.ARCHS`, or a checkpoint
            folder of a run; what of a frozen encoder that leaves out is read from where it was.
        arch_overrides: Fields of :class:`Arch` that replace or complete what the files say.

    Raises:
        FileNotFoundError: Nothing there, no weights in it, or a hub that cannot be reached.
        ValueError: Not an InternViT, broken files, or files that contradict each other.
    """
    path = locate_source(source)
    if is_run_folder(path):
        files = RunFiles(path)
        if files.identity is not None and not files.has_encoder:
            raise ValueError(
                f'{path} leaves its encoder out: it was frozen and is that of '
                f'{files.encoder_source}, unchanged; give {files.encoder_source}.'
            )
        complete(files)
        return Checkpoint(str(source), files, None, arch_overrides)
    config = read_config(path)
    return Checkpoint(str(source), WeightFiles(path), config, arch_overrides)


def complete(files: RunFiles) -> int:
    """Add what a run's checkpoint leaves out of its encoder; see :mod:`left_out`.

    Returns:
        How many tensors were added.

    Raises:
        FileNotFoundError: The encoder's source is not there.
        ValueError: The source holds other weights than those the run was trained on.
    """
    if files.identity is None:
        return 0
    source = files.encoder_source
    return read_left_out(files, open_checkpoint(source), locate_source(source))


def read_arch(source: str | os.PathLike) -> Arch:
    """Shape of the encoder at ``source``, without its weights where they are not needed.

    A hub id costs one small download; a directory may hold nothing but ``config.json``.

    Raises:
        FileNotFoundError: As :func:`open_checkpoint`.
        ValueError: As :func:`open_checkpoint`.
    """
    if isinstance(source, str) and source in ARCHS and not Path(source).exists():
        return ARCHS[source]
    path = locate_source(source, weights=False)
    config = read_config(path)
    if path.is_dir() and config is not None and describes_encoder(config):
        return get_arch(fields_from_config(config, f'config.json of {source}', defaults=True))
    return open_checkpoint(source).arch


def load_encoder(
    encoder: nn.Module, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None
) -> LoadReport:
    """Stream a checkpoint into an encoder, one tensor at a time.

    Every name and shape is checked before the first tensor is read, so a checkpoint that does not
    fit leaves the encoder as it was. Position table and patch kernel are resampled to the encoder's
    size; blocks beyond its last are not read. Adapters in the checkpoint become part of the
    weights; those of the encoder stay as they are.

    Args:
        encoder: Module with our names and an ``arch``; its parameters may be on the meta device.
        checkpoint: From :func:`open_checkpoint`.
        dtype: Dtype of the loaded parameters; by default the one that each has.

    Raises:
        ValueError: Keys are unexpected, missing or of another shape, or the two differ in heads
            or norm epsilon.
    """
    start = time.perf_counter()
    arch: Arch = encoder.arch
    targets = plain_targets(encoder)
    blocks = {block_index(name) for name in targets}
    skipped_blocks, skipped_names, wanted = set(), [], {}
    for name, shape in checkpoint.names.items():
        block = block_index(name)
        if block is not None and block not in blocks:
            skipped_blocks.add(block)
        elif name == 'cls_token' and not arch.num_prefix_tokens:
            skipped_names.append(name)
        else:
            wanted[name] = shape
    resampled = resampled_tensors(checkpoint.names, arch)
    _check_same_kind(checkpoint, arch)
    shapes = wanted | {name: shape for name, (shape, _) in resampled.items() if name in wanted}
    compare_shapes(
        shapes,
        {name: tuple(target.shape) for name, (_, target) in targets.items()},
        f'{checkpoint.source} does not fit the encoder',
        _remedy(checkpoint, arch),
    )
    with torch.no_grad():
        for name, tensor in checkpoint.tensors(wanted):
            if name in resampled:
                tensor = resample(name, tensor, arch)
            _put(encoder, *targets[name], tensor, dtype)
    return LoadReport(
        layout=checkpoint.layout,
        num_loaded=len(wanted),
        resampled=tuple(text for _, text in resampled.values()),
        skipped_blocks=tuple(sorted(skipped_blocks)),
        skipped_names=tuple(skipped_names),
        other_keys=checkpoint.other_keys,
        prefix=checkpoint.prefix,
        seconds=time.perf_counter() - start,
        merged=checkpoint.num_adapted,
    )


def _check_same_kind(checkpoint: Checkpoint, arch: Arch) -> None:
    """Fields that change the result and no shape."""
    for field in ('num_heads', 'norm_eps'):
        ours, theirs = getattr(arch, field), checkpoint.written.get(field)
        if theirs not in (None, ours) and (
            field == 'num_heads' or field not in checkpoint.overrides
        ):
            raise ValueError(
                f'{checkpoint.source} was made with {field}={theirs}, the encoder has '
                f'{field}={ours}; build the encoder with {field}={theirs}.'
            )


def _remedy(checkpoint: Checkpoint, arch: Arch) -> str:
    fields = {f: v for f, v in checkpoint.fields.items() if getattr(arch, f) != v}
    for field in ('img_size', 'patch_size', 'layer_scale_init', 'drop_path_rate'):
        fields.pop(field, None)
    if fields.get('depth', 0) > arch.depth:
        del fields['depth']
    differs = ', '.join(f'{f}={v}' for f, v in fields.items())
    return f'build the encoder with {differs}.' if differs else 'give a complete checkpoint.'


def _put(
    encoder: nn.Module, name: str, target: Tensor, tensor: Tensor, dtype: torch.dtype | None
) -> None:
    dtype = dtype or target.dtype
    if not target.is_meta:
        if target.dtype != dtype:
            target.data = target.data.to(dtype)
        target.copy_(tensor)
        return
    # Independent of the mapped file, which may go away: a changed dtype is a copy already.
    tensor = tensor.to(dtype) if tensor.dtype != dtype else tensor.clone()
    parent, _, leaf = name.rpartition('.')
    if isinstance(target, nn.Parameter):
        tensor = nn.Parameter(tensor.contiguous(), requires_grad=target.requires_grad)
    setattr(encoder.get_submodule(parent), leaf, tensor)
