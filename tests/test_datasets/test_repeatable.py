"""The data of iteration i depend on the seed and on i alone."""

import pickle
import random
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmdet_seg.datasets.position_sampler import Draw, PositionSampler
from mmdet_seg.datasets.seeded_dataset import SeededDataset, unreadable


def drawn(num, start=0, rank=0, world=1, size=7, **kwargs):
    sampler = PositionSampler(range(size), seed=5, **kwargs)
    sampler.start, sampler.rank, sampler.world_size = start, rank, world
    return [(int(d), d.position) for d in islice(sampler, num)]


def test_starting_in_the_middle_is_going_on():
    everything = drawn(40)
    for start in (0, 3, 7, 20):
        assert drawn(40 - start, start) == everything[start:]
    assert [p for _, p in everything] == list(range(40))
    for epoch in range(5):
        assert {i for i, _ in everything[7 * epoch : 7 * epoch + 7]} == set(range(7))
    assert everything[:7] != [(i, p - 7) for i, p in everything[7:14]]


@pytest.mark.parametrize('world', [2, 3])
def test_processes_share_what_one_would_draw(world):
    shares = [drawn(6, 9, rank, world) for rank in range(world)]
    together = sorted((d for share in shares for d in share), key=lambda d: d[1])
    assert together == drawn(6 * world, 9)


def test_in_order():
    assert [i for i, _ in drawn(9, 2, shuffle=False)] == [2, 3, 4, 5, 6, 0, 1, 2, 3]


def test_no_image_is_said():
    with pytest.raises(ValueError, match='hold no image'):
        PositionSampler([], seed=0)


def test_a_draw_travels_to_a_worker():
    draw = pickle.loads(pickle.dumps(Draw(3, 40)))
    assert (draw, draw.position) == (3, 40)


class Noise:
    """A data set of random numbers from all three generators, whose image 2 is broken."""

    metainfo = {'classes': ('a',)}

    def __init__(self, broken=(2,)) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError('truncated\nfile')
        numbers = (random.random(), np.random.rand(), torch.rand(()).item())
        return {'inputs': (index, *numbers), 'data_samples': BaseDataElement()}

    def get_data_info(self, index):
        return {'img_path': f'{index}.jpg'}


def test_a_sample_depends_on_its_position_alone():
    data = SeededDataset(Noise(), 1)
    first = data[Draw(3, 10)]['inputs']
    data[Draw(4, 11)]
    assert data[Draw(3, 10)]['inputs'] == first
    assert pickle.loads(pickle.dumps(data))[Draw(3, 10)]['inputs'] == first
    assert data[Draw(3, 11)]['inputs'] != first
    assert SeededDataset(Noise(), 2)[Draw(3, 10)]['inputs'] != first
    assert data.metainfo == Noise.metainfo
    assert len(data) == 5


def test_what_cannot_be_used_is_replaced_and_named():
    sample = SeededDataset(Noise(), 1)[Draw(2, 0)]
    assert sample['inputs'][0] == 3
    assert unreadable([sample['data_samples']]) == [['2.jpg', 'OSError: truncated']]
    with pytest.raises(RuntimeError, match=r'5 images in a row cannot be used; 0\.jpg: OSError'):
        SeededDataset(Noise(broken=range(5)), 1)[Draw(0, 0)]
