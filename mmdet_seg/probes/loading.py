"""Processes that load images: Ctrl-C is not theirs, and what ends them is said in one line."""

import os
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mmdet_seg.command_line import Failure

_GRACE = 10  # seconds


def leave_signals(_: int) -> None:
    """Ctrl-C and timeouts reach all processes of a group; those that load go on until told.

    The main process may be told to end too, and ends its children with SIGTERM: they do not go on
    for long after one, and leave as if all were well, which does not disturb its last step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))


def loaded(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches.

    Raises:
        ValueError: An image that cannot be used; of a process that loads, without its traceback.
        mmdet_seg.command_line.Failure: A process that loads is gone.
    """
    try:
        yield from loader
    except (RuntimeError, ValueError) as error:
        text = str(error).strip()
        last = text.splitlines()[-1] if text else ''
        if isinstance(error, ValueError) or 'images in a row cannot be used' in text:
            line = last.removeprefix('RuntimeError: ').removeprefix('ValueError: ')
            raise ValueError(line) from error
        if 'DataLoader worker' not in text:
            raise
        raise Failure(
            'A process that loads data died (killed, or out of memory): lower --workers or the '
            'batch, then go on where the run was.'
        ) from error
