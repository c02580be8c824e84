"""Weight files: which of them a directory means, and reading one tensor at a time.

safetensors and PyTorch files are memory-mapped: opening one reads its table of contents, reading a
tensor touches that tensor's bytes. What a user may hold instead of weights (a Git LFS pointer, a
web page, half a download) is told apart by content.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdet_seg.compat.torch_load import load_file

SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt')
# Files that lie beside weights and are none.
_NOT_WEIGHTS = re.compile(r'(training_args|optimizer|scheduler|rng_state|adapter_model|scaler)')
_SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})\.(?:safetensors|bin)')
_WRAPPERS = ('module', 'state_dict', 'model', 'model_state_dict', 'teacher')
_DTYPES = {
    'F64': torch.float64,
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
}


class TensorFile:
    """One weight file, opened; tensors that it hands out may be views of the mapped file.

    Attributes:
        path: The file.
        keys: Stored name -> its place in the order of the file.
        metadata: Strings stored beside the tensors (safetensors only).
        wrapper: Keys below which a PyTorch file holds the state dict; empty where it is flat.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = _sniff(path)
        self.metadata: dict[str, str] = {}
        self.wrapper: tuple[str, ...] = ()
        self._open: Any = None
        self.keys = {key: i for i, key in enumerate(self._opened().offset_keys())}

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._opened().shape(key)

    def dtype(self, key: str) -> torch.dtype | str:
        """Its dtype; the stored name of it where it is not a floating-point dtype that we read."""
        return self._opened().dtype(key)

    def read(self, key: str) -> Tensor:
        """The tensor; clone it to keep it independent of the file."""
        return self._opened().read(key)

    def release(self) -> None:
        """Give mapped memory back as soon as no tensor uses it; the next access maps it anew."""
        if self._open is not None and self._open.mapped:
            self._open = None

    def _opened(self) -> '_Safetensors | _Torch':
        if self._open is None:
            if self.kind == 'safetensors':
                self._open = _Safetensors(self.path)
                self.metadata = self._open.metadata
            else:
                self._open = _Torch(self.path, self.kind)
                self.wrapper = self._open.wrapper
        return self._open


class _Safetensors:
    mapped = True

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework='pt')
        except (SafetensorError, OSError) as e:
            raise _broken(path, e) from None
        except RuntimeError as e:  # PyTorch maps it so that Linux wants memory for all of it
            raise ValueError(f'{path} cannot be mapped ({_line(e)}); give it in shards.') from None
        self.metadata = self._file.metadata() or {}

    def offset_keys(self) -> list[str]:
        return self._file.offset_keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype | str:
        name = self._file.get_slice(key).get_dtype()
        return _DTYPES.get(name, name)

    def read(self, key: str) -> Tensor:
        return self._file.get_tensor(key)


class _Torch:
    def __init__(self, path: Path, kind: str) -> None:
        self.mapped = kind == 'zip'  # files from before PyTorch 1.6 cannot be mapped
        self._state, self.wrapper = _unwrap(load_file(path, mmap=self.mapped), path)

    def offset_keys(self) -> list[str]:
        return list(self._state)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._state[key].shape)

    def dtype(self, key: str) -> torch.dtype | str:
        dtype = self._state[key].dtype
        return dtype if dtype in _DTYPES.values() else str(dtype).removeprefix('torch.')

    def read(self, key: str) -> Tensor:
        return self._state[key]


class WeightFiles:
    """The files of one checkpoint; a file is opened when one of its tensors is asked for.

    Args:
        path: A weight file, or a directory that holds one checkpoint.

    Attributes:
        owner: Stored key -> file.

    Raises:
        FileNotFoundError: No weights, or a file that the index names is missing.
        ValueError: A file is not what it should be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[Path, TensorFile] = {}
        self.owner: dict[str, Path] = {}
        if path.is_dir():
            index, weights = choose_files([p.name for p in path.iterdir() if p.is_file()], path)
            if index:
                weight_map = read_weight_map(path / index)
                self.owner = {key: path / name for key, name in weight_map.items()}
                return
            paths = [path / name for name in weights]
        else:
            paths = [path]
        for file in paths:
            for key in self.file(file).keys:
                if key in self.owner:
                    raise ValueError(
                        f'{key} is in {self.owner[key].name} and in {file.name} of {path}; '
                        f'name the one file to read.'
                    )
                self.owner[key] = file

    def file(self, path: Path) -> TensorFile:
        """A file of the checkpoint, opened."""
        if path not in self._files:
            self._files[path] = TensorFile(path)
        return self._files[path]

    def of(self, key: str) -> TensorFile:
        """The file that holds ``key``.

        Raises:
            FileNotFoundError: The index names a file that is not there.
            ValueError: The file lacks the key that the index says it has.
        """
        path = self.owner[key]
        if not path.exists():
            names = sorted({p.name for p in self.owner.values() if not p.exists()})
            raise FileNotFoundError(
                f'{path} is missing: the index beside it says that it holds {key} '
                f'({len(names)} missing in all); download it into the same directory.'
            )
        file = self.file(path)
        if key not in file.keys:
            raise ValueError(f'{path} has no {key}, though the index beside it says so; {_AGAIN}')
        return file

    def in_file_order(self, keys: Iterable[str]) -> list[str]:
        """``keys`` file by file, each in the order of its bytes."""
        place: dict[str, tuple[int, int]] = {}
        for i, path in enumerate(dict.fromkeys(self.of(key).path for key in keys)):
            place |= {key: (i, j) for key, j in self.file(path).keys.items()}
        return sorted(keys, key=place.__getitem__)

    def release(self) -> None:
        """Unmap what no tensor uses any more."""
        for file in self._files.values():
            file.release()


def choose_files(names: Iterable[str], where: Path | str) -> tuple[str | None, list[str]]:
    """Which files of a directory are the weights: an index, or else the files themselves.

    safetensors before ``.bin`` before ``.pth``.

    Args:
        names: File names of the directory.
        where: The directory, for messages.

    Raises:
        FileNotFoundError: There are no weights, or numbered files without an index are incomplete.
        ValueError: There are several files of which each could be meant.
    """
    names = sorted(names)
    if any(n.endswith('_optim_states.pt') for n in names):
        raise ValueError(
            f'{where} is a checkpoint of DeepSpeed, in parts; put them together first: python '
            f'tools/convert.py {where} OUT.safetensors --to model.'
        )
    for suffix in ('.safetensors', '.bin'):
        index = [n for n in names if n.endswith(f'{suffix}.index.json')]
        if index:
            usual = 'model.safetensors.index.json'
            return (usual if usual in index else index[0]), []
        weights = [n for n in names if n.endswith(suffix) and not _NOT_WEIGHTS.match(n)]
        for usual in (f'model{suffix}', f'pytorch_model{suffix}'):
            if usual in weights:
                return None, [usual]
        shards = [m for n in weights if (m := _SHARD.fullmatch(n))]
        if shards and len(shards) == len(weights):
            stem, total = shards[0][1], int(shards[0][3])
            wanted = [f'{stem}-{i:05d}-of-{total:05d}{suffix}' for i in range(1, total + 1)]
            missing = [n for n in wanted if n not in weights]
            if missing:
                raise FileNotFoundError(
                    f'{where} has {len(weights)} of {total} weight files, {missing[0]} is missing; '
                    f'download it into the same directory.'
                )
            return None, wanted
        if weights:
            return None, _only(weights, where)
    weights = [n for n in names if n.endswith(('.pth', '.pt'))]
    if weights:
        return None, _only(weights, where)
    holds = f'it holds {_some(names)}' if names else 'it is empty'
    raise FileNotFoundError(
        f'{where} has no weights (*.safetensors, *.bin, *.pth): {holds}; '
        f'download the weights into it or name the right directory.'
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: It is not one; the message says where it breaks.
    """
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, OSError) as e:
        raise ValueError(f'{path} cannot be read as JSON ({_line(e)}); {_AGAIN}') from None
    if not isinstance(value, dict):
        raise ValueError(f'{path} holds a JSON {type(value).__name__}, not an object; {_AGAIN}')
    return value


def read_weight_map(index: Path) -> dict[str, str]:
    """Stored key -> file name, from the index of a sharded checkpoint."""
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ValueError(f'{index} has no weight_map; {_AGAIN}')
    outside = [n for n in weight_map.values() if not isinstance(n, str) or Path(n).name != n]
    if outside:
        raise ValueError(f'{index} names {outside[0]!r}, which is not a file beside it.')
    return dict(weight_map)


_AGAIN = 'download it again.'


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict inside what a PyTorch file holds, and the keys that lead to it."""
    wrapper: tuple[str, ...] = ()
    while isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            if tensors:
                return tensors, wrapper
            break
        content, wrapper = content[inner], (*wrapper, inner)
    kind = 'an empty state dict' if wrapper else type(content).__name__
    raise ValueError(f'{path} holds {kind}, not named tensors; give a checkpoint of the encoder.')


def _sniff(path: Path) -> str:
    """``'safetensors'``, ``'zip'`` (PyTorch since 1.6) or ``'pickle'`` (before), by content."""
    size = path.stat().st_size
    try:
        with path.open('rb') as f:
            head = f.read(512)
    except OSError as e:
        raise ValueError(f'{path} cannot be read ({e.strerror}); check its permissions.') from None
    text = head.lstrip().lower()
    if not head:
        raise ValueError(f'{path} is empty (0 bytes); {_AGAIN}')
    if head.startswith(b'version https://git-lfs'):
        match = re.search(rb'size (\d+)', head)
        meant = f' for {int(match[1]) / 1e9:.1f} GB of weights' if match else ''
        raise ValueError(
            f'{path} is a Git LFS pointer ({size} bytes){meant}, not the weights; '
            f'run `git lfs pull` in its directory or download the file itself.'
        )
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        raise ValueError(
            f'{path} is a web page, not weights; download the file itself '
            f'(on a hub the address with /resolve/, not /blob/).'
        )
    if head.startswith(b'PK\x03\x04'):
        return 'zip'
    length = int.from_bytes(head[:8], 'little')
    if len(head) > 8 and head[8:9] == b'{' and length < 1 << 30:
        return 'safetensors'
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return 'pickle'
    raise ValueError(
        f'{path} is neither a safetensors nor a PyTorch file (it starts with {head[:8]!r}); '
        f'{_AGAIN}'
    )


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(f'{path} is truncated or corrupt ({_line(error)}); {_AGAIN}')


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())[:160].rstrip('. ')


def _only(weights: list[str], where: Path | str) -> list[str]:
    if len(weights) > 1:
        raise ValueError(
            f'{where} has {len(weights)} weight files ({_some(weights)}) and no index; '
            f'name the one to read, for example {os.path.join(where, weights[0])}.'
        )
    return weights


def _some(names: list[str]) -> str:
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
