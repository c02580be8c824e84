"""Processes that load images: what ends them is said in one line."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mmdet_seg.command_line import Failure


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
