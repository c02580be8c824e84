"""An endless order of images in which every draw has a number, so that a run can go on anywhere."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


class Draw(int):
    """An index into a data set, with the number of the draw in the whole run.

    Args:
        index: Of the image.
        position: How many images all processes together drew before.
    """

    position: int

    def __new__(cls, index: int, position: int) -> 'Draw':
        draw = super().__new__(cls, index)
        draw.position = position
        return draw

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.position)


@DATA_SAMPLERS.register_module()
class PositionSampler(Sampler):
    """mmengine's ``InfiniteSampler`` that starts at any position without drawing what was before.

    Position p is image ``p mod n`` of the order of epoch ``p div n``, which depends on the seed and
    the epoch alone. Of R processes, process r takes the positions r, r + R, r + 2 R, ...: together
    they draw what one process draws with a batch R times as large.

    Args:
        dataset: What is drawn from.
        shuffle: Another order in every epoch; False is 0, 1, 2, ...
        seed: The same in all processes; None agrees on one.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0
        if not self.size:
            raise ValueError('The training data hold no image; look at data_root and the split.')

    def __iter__(self) -> Iterator[Draw]:
        position, epoch, order = self.start + self.rank, None, None
        while True:
            at, offset = divmod(position, self.size)
            if at != epoch:
                epoch, order = at, self._order(at)
            yield Draw(order[offset], position)
            position += self.world_size

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        # Seeds next to each other would share most of their bits.
        generator = torch.Generator().manual_seed(1_000_003 * epoch + self.seed)
        return torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        """Images of one epoch, as mmengine's sampler has it."""
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the order has no end."""
