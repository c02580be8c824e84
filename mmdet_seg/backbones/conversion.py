"""From one published layout to another."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.arch_config import split_rows
from mmdet_seg.backbones.checkpoint import open_checkpoint
from mmdet_seg.backbones.checkpoint_writer import (
    MAX_SHARD_BYTES,
    EncoderTensors,
    Progress,
    check_target,
    write_encoder,
)
from mmdet_seg.backbones.layouts import group_keys

_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert` did.

    Attributes:
        source: What was read.
        source_layout: Its layout.
        out: What was written.
        layout: Its layout.
        num_tensors: Tensors of the encoder.
        num_bytes: Their bytes as written.
        other_keys: Stored keys of other parts, left out.
        prefix: What stood before the encoder's stored names.
        seconds: Wall time.
        merged: Weights that took a LoRA adapter in.
    """

    source: str
    source_layout: str
    out: str
    layout: str
    num_tensors: int
    num_bytes: int
    other_keys: tuple[str, ...]
    prefix: str
    seconds: float
    merged: int = 0

    def summary(self) -> str:
        """The report in one line."""
        left = group_keys(self.other_keys, self.prefix)
        return (
            f'{self.source} ({self.source_layout}) -> {self.out} ({self.layout}): '
            f'{self.num_tensors} tensors, {self.num_bytes / 1e9:.2f} GB in {self.seconds:.1f} s'
            + (f'; LoRA adapters merged into {self.merged} of them' if self.merged else '')
            + (f'; not of the encoder, left out: {left}.' if left else '.')
        )


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    layout: str,
    *,
    dtype: str = 'keep',
    force: bool = False,
    arch_overrides: dict[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> ConversionReport:
    """Rewrite a checkpoint in another layout, bit for bit unless ``dtype`` says otherwise.

    LoRA adapters become part of the weights, summed in float32.

    Args:
        source: As for :func:`checkpoint.open_checkpoint`.
        out: As for :func:`checkpoint_writer.save_encoder`.
        layout: One of :data:`checkpoint_writer.LAYOUTS`.
        dtype: ``keep``, ``fp32``, ``bf16`` or ``fp16``.
        force: Replace what a previous call wrote to ``out``.
        arch_overrides: Fields of :class:`Arch` that the files cannot tell (``num_heads``).
        max_shard_bytes: Largest weight file of ``native`` and ``hub``.
        progress: Called with bytes written and bytes in all.

    Raises:
        FileNotFoundError: Nothing at ``source``, or no weights.
        ValueError: ``source`` is broken or no InternViT, or ``out`` cannot be written.
    """
    start = time.perf_counter()
    if dtype != 'keep' and dtype not in _DTYPES:
        raise ValueError(f'dtype={dtype!r} is not one of keep, {", ".join(_DTYPES)}.')
    check_target(Path(out), layout, force)
    stored = open_checkpoint(source, arch_overrides)
    # The authors' files do not say how many heads there are, and need not.
    arch = stored.shape_arch if layout == 'pth' else stored.arch
    dtypes = {name: _DTYPES.get(dtype, kept) for name, kept in stored.dtypes.items()}

    def read(name: str) -> Tensor:
        tensor = stored.read(name)
        if name == 'pos_embed':  # an encoder without class token may have kept its class row
            tensor = tensor[:, split_rows(tuple(tensor.shape))[0] - arch.num_prefix_tokens :]
        return tensor.to(dtypes[name])

    tensors = EncoderTensors(arch, dtypes, read, stored.release)
    write_encoder(tensors, out, layout, max_shard_bytes, force=force, progress=progress)
    return ConversionReport(
        source=str(source),
        source_layout=stored.layout,
        out=str(out),
        layout=layout,
        num_tensors=len(dtypes),
        num_bytes=tensors.num_bytes,
        other_keys=stored.other_keys,
        prefix=stored.prefix,
        seconds=time.perf_counter() - start,
        merged=stored.num_adapted,
    )
