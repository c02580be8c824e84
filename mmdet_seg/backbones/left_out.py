"""The part of a frozen encoder that a run's checkpoint leaves out, read from where it came from.

The checkpoint says the source, how many tensors are left out, and their SHA-256; with other weights
than these, what was trained beside them would be worthless. They come in the precision of the
source; a run holds them in bfloat16 where its config does not say otherwise.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from mmdet_seg.backbones.checkpoint_contents import Checkpoint
from mmdet_seg.backbones.layouts import block_index, unwrapped, wrapped
from mmdet_seg.backbones.resampling import resample, resampled_tensors
from mmdet_seg.backbones.run_folder import RunFiles
from mmdet_seg.backbones.variants import get_arch


def read_left_out(files: RunFiles, source: Checkpoint, path: Path) -> int:
    """Add what is left out to the files of a checkpoint.

    Args:
        files: Of the checkpoint.
        source: The encoder that it names.
        path: Where that is.

    Returns:
        How many tensors were added.

    Raises:
        ValueError: The source holds other weights than those the run was trained on.
    """
    part = _LeftOut(files, source, path)
    expected = files.identity
    if len(part.keys) != expected['tensors'] or part.sha256() != expected['sha256']:
        raise ValueError(
            f'{files.path} was trained on the frozen encoder of {source.source} (sha256 '
            f'{expected["sha256"][:12]}), and there are other weights now, or the run made another '
            f'size of them and its config ({files.manifest.get("config")}) is not beside the '
            'checkpoint; put back what has changed.'
        )
    files.add(part)
    return len(part.keys)


class _LeftOut:
    """Stands among the weight files, as a :class:`checkpoint_files.TensorFile` does."""

    def __init__(self, files: RunFiles, source: Checkpoint, path: Path) -> None:
        self.path, self._source = path, source
        self.metadata: dict[str, str] = {}
        self.wrapper: tuple[str, ...] = ()
        prefix = files.prefix
        stored = [k.removeprefix(prefix) for k in files.owner if k.startswith(prefix)]
        present = {unwrapped(k) for k in stored}
        adapted = {k.split('.lora_A.')[0] for k in stored if '.lora_A.' in k}
        self._arch = get_arch(source.shape_arch, **files.sizes())
        self._resampled = resampled_tensors(source.names, self._arch)
        names = [n for n in source.names if n not in present]
        if not self._arch.num_prefix_tokens:
            names = [n for n in names if n != 'cls_token']
        blocks = {b for n in source.names if (b := block_index(n)) is not None}
        # An encoder may have been built with fewer blocks than its source has.
        while len(names) > files.identity['tensors'] and blocks:
            last = max(blocks)
            blocks.remove(last)
            names = [n for n in names if block_index(n) != last]
        self._names = {
            prefix + (wrapped(n) if n.rpartition('.')[0] in adapted else n): n for n in names
        }
        self.keys = {key: i for i, key in enumerate(self._names)}

    def shape(self, key: str) -> tuple[int, ...]:
        name = self._names[key]
        return self._resampled[name][0] if name in self._resampled else self._source.names[name]

    def dtype(self, key: str) -> torch.dtype | str:
        name = self._names[key]
        return torch.float32 if name in self._resampled else self._source.dtypes[name]

    def read(self, key: str) -> Tensor:
        name = self._names[key]
        tensor = self._source.read(name)
        return resample(name, tensor, self._arch) if name in self._resampled else tensor

    def release(self) -> None:
        self._source.release()

    def sha256(self) -> str:
        return fingerprint(((key, self.read(key)) for key in sorted(self.keys)), self.release)


def fingerprint(
    tensors: Iterable[tuple[str, Tensor]], release: Callable[[], None] | None = None
) -> str:
    """SHA-256 of names, shapes and values rounded to bfloat16.

    Rounded, because the same published weights are held in bfloat16 where they are frozen and in
    float32 elsewhere.

    Args:
        tensors: Names, in order, and values.
        release: Called after every gigabyte or so.
    """
    parts, read = [], 0
    for name, tensor in tensors:
        values = tensor.detach().to('cpu', torch.bfloat16).contiguous()
        digest = hashlib.sha256(f'{name} {tuple(tensor.shape)}\n'.encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
        parts.append(digest.hexdigest())
        read += tensor.nbytes
        if release is not None and read >= 1 << 30:
            del tensor, values
            release()
            read = 0
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()
