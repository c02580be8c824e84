"""Reading checkpoints without running code from them.

Needed because mmengine 0.10.7 calls ``torch.load(path, map_location=...)``: PyTorch 2.6 made
``weights_only=True`` the default there and so refuses mmengine's own checkpoints (logged scalars,
numpy numbers), while a checkpoint named by URL is still read by
``torch.hub.load_state_dict_from_url``, which by default runs whatever the file says. Delete
:func:`patch` when mmengine reads both with ``weights_only=True`` and allows its own classes;
:func:`load_file` stays, as the one reader of ``.pth`` files.

The rule, for our own code and, through :func:`patch`, for all that loads by way of mmengine (mmseg,
mmdet): ``weights_only=True`` plus the short list of :func:`_allowed`. A file that needs more is
refused, unless the environment says ``MMDET_SEG_TRUST_CHECKPOINTS=1``: run the code in it.
"""

import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

TRUST = 'MMDET_SEG_TRUST_CHECKPOINTS'
_ONE_AT_A_TIME = threading.RLock()  # torch keeps one list of allowed names for the process


def load_file(
    path: str | Path,
    *,
    map_location: Any = 'cpu',
    mmap: bool = False,
    stand_ins: Sequence[tuple[Any, str]] = (),
) -> Any:
    """What ``torch.save`` wrote to a file.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Map tensors from the file instead of reading them. A file in the format of before
            PyTorch 1.6 cannot be mapped and is read.
        stand_ins: Something harmless, and the stored name of the class in whose place it is made.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint, is damaged, or needs code to be run; one line.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f'{path} is a folder; name a checkpoint file in it.')
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; name a checkpoint file.')
    mmap = mmap and zipfile.is_zipfile(path)
    with _rule(str(path), list(stand_ins)) as weights_only:
        return torch.load(path, map_location=map_location, weights_only=weights_only, mmap=mmap)


def load(f: str | os.PathLike | IO[bytes], map_location: Any = None, **kwargs: Any) -> Any:
    """``torch.load`` under the rule of this module, whatever ``weights_only`` says.

    Args:
        f: A path or an open file.
        map_location: As for ``torch.load``.
        kwargs: ``mmap`` counts for a path; nothing else is used.
    """
    if isinstance(f, str | os.PathLike):
        return load_file(f, map_location=map_location, mmap=bool(kwargs.get('mmap')))
    with _rule(str(getattr(f, 'name', 'the checkpoint'))) as weights_only:
        return torch.load(f, map_location=map_location, weights_only=weights_only)


def load_url(url: str, *args: Any, **kwargs: Any) -> Any:
    """``torch.hub.load_state_dict_from_url``, same arguments, under the rule of this module."""
    with _rule(url) as weights_only:
        kwargs['weights_only'] = weights_only
        return torch.hub.load_state_dict_from_url(url, *args, **kwargs)


def patch(module: ModuleType) -> None:
    """Make ``mmengine.runner.checkpoint`` load by the rule of this module.

    Only the names ``torch`` and ``load_url`` inside that module change.
    """
    module.torch = _TorchThatLoadsSafely('torch')
    module.load_url = load_url


class _TorchThatLoadsSafely(ModuleType):
    """torch, but for ``load``."""

    load = staticmethod(load)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _StoredHistoryBuffer(HistoryBuffer):
    """Turns into a HistoryBuffer of numbers when its content is read.

    mmengine stores each buffer with the functions that summarise it and puts those it reads into
    the class; here the class keeps the ones it has.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = ('max_length', '_log_history', '_count_history')
        super().__setstate__({name: state[name] for name in names})
        self.__class__ = HistoryBuffer


class _OneCycle:
    """Stands for mmengine's OneCycleParamScheduler, so that no file builds one."""


def _getattr(owner: object, name: str) -> Any:
    """Takes the place of ``builtins.getattr``: the functions that mmengine stores, no other."""
    if owner is _StoredHistoryBuffer:
        return None  # the class keeps the ones it has
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError('GLOBAL builtins.getattr was not an allowed global')


def _allowed() -> list[tuple[Any, str]]:
    """What mmengine's own checkpoints hold beyond tensors and plain Python, and its stored names.

    Scalars logged by the message hub, the one-cycle schedule, numpy numbers (best scores), and
    parts of a config (the dataset's ``metainfo``).
    """
    reconstruct, scalar = np.ndarray(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    numeric = {type(np.dtype(code)) for code in '?bhilqBHILQefd'}
    return [
        (_StoredHistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_OneCycle, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
        (_getattr, 'builtins.getattr'),
        (ConfigDict, 'mmengine.config.config.ConfigDict'),
        (np.ndarray, 'numpy.ndarray'),
        (np.dtype, 'numpy.dtype'),
        *((kind, f'numpy.dtypes.{kind.__name__}') for kind in numeric),
        *((reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *((scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    ]


@contextmanager
def _allow(entries: list[tuple[Any, str]]) -> Iterator[None]:
    """Put entries on torch's list for a while; of two with one name, ours is the one that counts.

    onedl-mmengine puts the real ``getattr`` there around its own loading.
    """
    known = torch.serialization.get_safe_globals()
    names = {name for _, name in entries}
    others = [entry for entry in known if _stored_name(entry) not in names]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(others + entries)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


def _stored_name(entry: Any) -> str:
    """Name under which a pickle asks for an entry of torch's list."""
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'


@contextmanager
def _rule(name: str, more: list[tuple[Any, str]] | None = None) -> Iterator[bool]:
    """Around a ``torch.load``: yields its ``weights_only``; its errors become one line."""
    weights_only = os.environ.get(TRUST) != '1'
    with _ONE_AT_A_TIME, _allow(_allowed() + (more or [])), warnings.catch_warnings():
        # What these two say is part of the error that follows.
        warnings.filterwarnings('ignore', 'Detected pickle protocol')
        warnings.filterwarnings('ignore', '.*looks like a TorchScript archive')
        try:
            yield weights_only
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ValueError(_explain(name, error)) from error


def _explain(name: str, error: Exception) -> str:
    """The line a user reads."""
    text = str(error)
    wanted = re.search(r'GLOBAL (\S+)', text)
    if wanted:
        return (
            f'{name} asks for {wanted[1]!r}, which is not loaded from files; to run the code in '
            f'it, if you trust its source, set {TRUST}=1.'
        )
    if text.startswith('Attempting to deserialize object on'):
        return f"{name} holds tensors of a device that is not here; pass map_location='cpu'."
    reason = text.rpartition('WeightsUnpickler error:')[2].strip().partition('\n')[0][:120]
    return (
        f'{name} is not a checkpoint that can be read ({reason or type(error).__name__}); '
        'it is cut short, damaged or another kind of file.'
    )
