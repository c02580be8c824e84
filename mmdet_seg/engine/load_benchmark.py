"""How long a checkpoint takes to load and how much memory it takes, beside the stock way.

A checkpoint of the published 6 B shape is made up and written to disk, each way of loading it runs
in a process of its own, and the files are removed again, also on failure or Ctrl-C. Files are put
out of the page cache before each run, so that reading the disk counts.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint_writer import EncoderTensors, write_encoder
from mmdet_seg.backbones.layouts import expected_shapes
from mmdet_seg.backbones.variants import ARCHS, Arch
from mmdet_seg.engine.process_memory import available_bytes, memory_status, peak_bytes

GIB = 2**30
OURS, STOCK = 'InternViT.from_pretrained', 'torch.load + load_state_dict'
_LAYOUT = {OURS: 'hub', STOCK: 'pth'}
_FILE = {OURS: 'hub', STOCK: 'encoder.pth'}
_RUNTIME_BYTES = int(1.5 * GIB)  # Python, PyTorch and the activations of one crop


@dataclass(frozen=True)
class LoadRow:
    """One way of loading, measured.

    Attributes:
        method: :data:`OURS` or :data:`STOCK`.
        depth: Blocks.
        file_gib: Weights on disk.
        dtype: Dtype of the loaded weights.
        load_seconds: From nothing to a model with weights, imports not counted.
        crop_seconds: One forward pass of one square crop.
        peak_gib: Largest resident memory of the process (VmHWM).
        peak_anonymous_gib: Largest part of it that only swapping could free.
        peak_mapped_gib: Largest part that the kernel can drop: pages of files.
        before_gib: Resident memory before loading: Python and PyTorch.
        note: Why there are no figures; empty where there are.
    """

    method: str
    depth: int
    file_gib: float
    dtype: str = ''
    load_seconds: float = math.nan
    crop_seconds: float = math.nan
    peak_gib: float = math.nan
    peak_anonymous_gib: float = math.nan
    peak_mapped_gib: float = math.nan
    before_gib: float = math.nan
    note: str = ''


def run(
    depth: int = 48,
    stock_depth: int = 6,
    *,
    crop: int = 504,
    folder: str | os.PathLike | None = None,
    arch: Arch = ARCHS['6b-224px'],
    progress: Callable[[str], None] | None = None,
) -> list[LoadRow]:
    """Measure our loading at ``depth``, and both ways at ``stock_depth``.

    Args:
        depth: Blocks of the large checkpoint; 48 is the published 6 B one, 12 GB in bfloat16.
        stock_depth: Blocks at which the stock way, with its fp32 model and its copy of the file,
            fits too.
        crop: Side of the crop in pixels, a multiple of the patch.
        folder: Where to put the files; the system's temporary folder by default.
        arch: Encoder whose depth is varied.
        progress: Called with a line before each step.

    Raises:
        ValueError: Too little disk or memory for ``depth``, or a crop that does not fit.
    """
    say = progress or (lambda line: None)
    large, small = replace(arch, depth=depth), replace(arch, depth=stock_depth)
    if crop % arch.patch_size:
        raise ValueError(f'crop={crop} is not a multiple of patch_size={arch.patch_size}.')
    _check_room(large, small, Path(folder or tempfile.gettempdir()))
    rows = []
    plan = [(OURS, large), (OURS, small), (STOCK, small)]
    if large == small:
        del plan[0]
    for method, shape in plan:
        with _temporary(folder) as place:
            path = place / _FILE[method]
            size = _num_bytes(shape) / GIB
            say(f'writing {shape.depth} blocks, {size:.1f} GiB, to {place}')
            write_made_up(shape, path, _LAYOUT[method])
            _forget_pages(place)
            say(f'{method}, {shape.depth} blocks')
            rows.append(_measure_in_child(method, shape, path, crop))
    return rows


def table(rows: list[LoadRow]) -> str:
    """The rows as aligned text, GiB and seconds."""
    head = ('', 'blocks', 'file', 'weights', 'load s', 'crop s', 'peak', 'anonymous', 'mapped')
    lines = [head]
    for row in rows:
        times = (f'{row.load_seconds:.1f}', f'{row.crop_seconds:.1f}')
        peaks = (row.peak_gib, row.peak_anonymous_gib, row.peak_mapped_gib)
        sizes = tuple(f'{value:.1f}' for value in peaks)
        figures = (row.dtype, *times, *sizes) if not row.note else (row.note, *[''] * 5)
        lines.append((row.method, str(row.depth), f'{row.file_gib:.1f}', *figures))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def write_made_up(arch: Arch, out: Path, layout: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write an encoder with made-up weights, as cheap as they can be for finite outputs."""
    shapes = expected_shapes(arch)
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1_000_003, generator=generator).to(dtype)  # prime: no two rows alike

    def read(name: str) -> Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            start = arch.layer_scale_init if name.endswith('gamma') else 1.0
            return torch.full(shape, 0.0 if name.endswith('bias') else start, dtype=dtype)
        num = math.prod(shape)
        values = pool.repeat(num // len(pool) + 1)[:num].reshape(shape)
        return values.mul_(math.prod(shape[1:]) ** -0.5)

    tensors = EncoderTensors(arch, dict.fromkeys(shapes, dtype), read)
    write_encoder(tensors, out, layout)


def measure(method: str, arch: Arch, path: str, crop: int) -> LoadRow:
    """Load in this process and run a crop; the process should have done nothing else.

    Args:
        method: :data:`OURS` or :data:`STOCK`.
        arch: Shape of the encoder at ``path``.
        path: What :func:`write_made_up` wrote.
        crop: Side of the crop in pixels.
    """
    size = _num_bytes(arch) / GIB
    with _Memory() as memory:
        start = time.perf_counter()
        if method == OURS:
            encoder = InternViT.from_pretrained(path, frozen=True, dtype=torch.bfloat16)
        else:
            encoder = InternViT(arch).eval()
            encoder.load_state_dict(torch.load(path, weights_only=True)['module'])
        load_seconds = time.perf_counter() - start
        start = time.perf_counter()
        with torch.no_grad():
            (out,) = encoder(torch.randn(1, 3, crop, crop))
        crop_seconds = time.perf_counter() - start
    assert out.isfinite().all()
    return LoadRow(
        method=method,
        depth=arch.depth,
        file_gib=size,
        dtype=str(encoder.pos_embed.dtype).removeprefix('torch.'),
        load_seconds=load_seconds,
        crop_seconds=crop_seconds,
        peak_gib=peak_bytes() / GIB,
        peak_anonymous_gib=memory.peak.get('RssAnon', math.nan) / GIB,
        peak_mapped_gib=memory.peak.get('RssFile', math.nan) / GIB,
        before_gib=memory.before.get('VmRSS', math.nan) / GIB,
    )


class _Memory:
    """Watches this process's memory (Linux; elsewhere nothing is seen) from a thread."""

    def __enter__(self) -> '_Memory':
        self.before = memory_status()
        self.peak = dict(self.before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for key, value in memory_status().items():
                self.peak[key] = max(self.peak.get(key, 0), value)


def _measure_in_child(method: str, arch: Arch, path: Path, crop: int) -> LoadRow:
    size = _num_bytes(arch) / GIB
    job = json.dumps([method, arch.to_dict(), str(path), crop])
    command = [sys.executable, '-m', 'mmdet_seg.engine.load_benchmark', job]
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode == -signal.SIGKILL:
        return LoadRow(method, arch.depth, size, note='killed: out of memory')
    if done.returncode:
        return LoadRow(method, arch.depth, size, note=f'failed with status {done.returncode}')
    return LoadRow(**json.loads(done.stdout.splitlines()[-1]))


def _check_room(large: Arch, small: Arch, folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f'{folder} is not a directory; name one with room for the files.')
    need = max(_num_bytes(large), _num_bytes(small))
    free = shutil.disk_usage(folder).free
    if free < 1.05 * need:
        raise ValueError(
            f'{folder} has {free / GIB:.1f} GiB free and depth={large.depth} needs '
            f'{need / GIB:.1f}; name a folder on another disk or a smaller depth.'
        )
    available = available_bytes()
    # The stock way: a model in fp32 (twice the file) and the file's tensors.
    need = max(_num_bytes(large), 3 * _num_bytes(small)) + _RUNTIME_BYTES
    if available is not None and available < need:
        raise ValueError(
            f'{available / GIB:.1f} GiB of memory are free and depth={large.depth}, '
            f'stock_depth={small.depth} need {need / GIB:.1f}; choose smaller ones.'
        )


def _num_bytes(arch: Arch) -> int:
    return 2 * sum(math.prod(shape) for shape in expected_shapes(arch).values())  # bfloat16


def _forget_pages(folder: Path) -> None:
    """Write files through to the disk and put them out of the page cache."""
    for path in folder.rglob('*'):
        if path.is_file():
            with path.open('rb') as f:
                os.fsync(f.fileno())
                if hasattr(os, 'posix_fadvise'):
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _temporary(folder: str | os.PathLike | None) -> Iterator[Path]:
    """A folder that goes in every case; a request to terminate counts as Ctrl-C."""

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        with tempfile.TemporaryDirectory(prefix='mmdet_seg_load_', dir=folder) as place:
            yield Path(place)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


if __name__ == '__main__':
    job_method, job_arch, job_path, job_crop = json.loads(sys.argv[1])
    print(json.dumps(asdict(measure(job_method, Arch(**job_arch), job_path, job_crop))))
