"""A data set whose augmentations depend on the draw alone, and that names files it cannot read."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmdet_seg.datasets.position_sampler import Draw

UNREADABLE = 'unreadable'  # key of a sample's metainfo: [[file, why], ...] that it stands in for
_TRIES = 20


class SeededDataset:
    """Wraps any mmengine data set.

    Before a sample is made, Python's, NumPy's and PyTorch's generators are seeded by the draw's
    position, so that a sample does not depend on the worker that makes it, on how many workers and
    processes there are, or on what was drawn before: a resumed run sees what it would have seen.

    An image that cannot be used is replaced by the next one; its name and the reason travel in the
    ``metainfo`` of the sample, under :data:`UNREADABLE`, for the training loop to count.

    Args:
        dataset: The data set.
        seed: Of the run.

    Raises:
        RuntimeError: In ``__getitem__``: 20 images in a row cannot be used.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, draw: int) -> Any:
        index, failed = int(draw), []
        seed_generators(self.seed, getattr(draw, 'position', index))
        for _ in range(min(_TRIES, len(self.dataset))):
            try:
                sample = self.dataset[index]
            except Exception as error:
                failed.append([self._file(index), _reason(error)])
                index = (index + 1) % len(self.dataset)
                continue
            if failed:
                sample['data_samples'].set_metainfo({UNREADABLE: failed})
            return sample
        raise RuntimeError(f'{len(failed)} images in a row cannot be used; {": ".join(failed[0])}')

    def _file(self, index: int) -> str:
        try:
            return str(self.dataset.get_data_info(index)['img_path'])
        except Exception:  # a data set of another kind
            return f'image {index}'


def seed_generators(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators by all of the numbers together."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


def unreadable(data_samples: Sequence[Any]) -> list[list[str]]:
    """[file, why] of everything that the samples of a batch stand in for."""
    return [x for sample in data_samples for x in sample.metainfo.get(UNREADABLE, ())]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


__all__ = ['UNREADABLE', 'Draw', 'SeededDataset', 'seed_generators', 'unreadable']
