"""Views and features on disk: what is stored is what the encoder says of the same view."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from mmdet_seg.datasets.position_sampler import Draw
from mmdet_seg.probes import disk, pooled_store
from mmdet_seg.probes.classify_inputs import EachOnce, FreshViews, Reads, StoredViews
from mmdet_seg.probes.classify_views import Targets, Views, batches
from mmdet_seg.probes.pooled_store import stored
from tests.test_probes.classify_cases import small_images, small_reader

TRAIN = Views(28, augmented=True, mixup=0.8, cutmix=1.0, seed=3)
READS = Reads((0, 2))


def test_the_test_view_is_torchvisions():
    images = small_images(5)
    views = Views(28, crop_ratio=0.875)
    (batch,) = batches(images, views, range(5), 8)
    cubic = v2.InterpolationMode.BICUBIC
    peer = v2.Compose([v2.Resize(32, interpolation=cubic), v2.CenterCrop(28), v2.PILToTensor()])
    assert torch.equal(batch.images, torch.stack([peer(images.image(i)) for i in range(5)]))
    assert torch.equal(batch.targets.dense(4).argmax(1), torch.from_numpy(images.labels))


def test_a_view_depends_on_the_seed_and_the_position_alone():
    images = small_images()
    one = Views(28, augmented=True, seed=1)
    draws = [Draw(3, 100), Draw(5, 101), Draw(3, 102)]
    (a,) = batches(images, one, draws, 8)
    torch.manual_seed(99)
    (b,) = batches(images, one, draws[1:], 8)
    assert torch.equal(a.images[1:], b.images)
    assert not torch.equal(a.images[0], a.images[2])
    (c,) = batches(images, Views(28, augmented=True, seed=2), draws, 8)
    assert not torch.equal(a.images, c.images)


@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
def test_targets_are_what_torchvision_makes_of_the_labels(kind):
    images = small_images(12)
    plain = Views(28, augmented=True, seed=3)
    mixed = Views(28, augmented=True, seed=3, **{kind: 1.0})
    (before,), (after,) = (batches(images, v, range(12), 12) for v in (plain, mixed))
    soft = after.targets.dense(4)
    assert torch.allclose(soft.sum(1), torch.ones(12))
    if kind == 'mixup':  # the share of an image is its share of the label
        x, y = before.images.float(), before.images.float().roll(1, 0)
        share = ((after.images - y) * (x - y)).sum() / (x - y).square().sum()
        labels = torch.nn.functional.one_hot(torch.from_numpy(images.labels), 4).float()
        assert torch.allclose(soft, share * labels + (1 - share) * labels.roll(1, 0), atol=1e-4)
    else:
        kept = (after.images == before.images).all(1).float().mean((1, 2))
        same = soft.max(1).values == 1
        assert (kept >= after.targets.weights[:, 0] - 0.02)[~same].all()
    assert not torch.equal(after.images, before.images.float())


def test_a_class_counts_once_where_both_images_have_it():
    targets = Targets(torch.tensor([[2, 2], [0, 1]]), torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert targets.dense(3).tolist() == [[0, 0, 1], [0.25, 0.75, 0]]


@pytest.mark.parametrize(('prefix', 'patch'), [(1, 14), (0, 16)])
def test_stored_features_are_those_of_fresh_views(tmp_path, prefix, patch):
    reader, images = small_reader(prefix=prefix, patch=patch, batch=5), small_images(20)
    views = Views(2 * patch, augmented=True, mixup=0.8, cutmix=1.0, seed=3)
    fresh = FreshViews(reader, images, views, READS, 10)
    kept = StoredViews(reader, images, views, READS, 10, 1, tmp_path)
    store = kept.passes[0]
    for i, (inputs, targets) in enumerate(fresh.steps(0, 2)):
        rows = slice(10 * i, 10 * i + 10)
        mine, peer = store.targets(rows).dense(4), targets.dense(4)
        assert torch.equal(mine, peer)
        for layer, pooled in store.read(rows, (0, 2)).items():
            assert torch.equal(pooled.mean, inputs.of([layer], 'mean'))
            if prefix:
                assert torch.equal(pooled.token, inputs.of([layer], 'class'))


def test_steps_go_through_every_view_of_every_image_and_start_anywhere(tmp_path):
    reader, images = small_reader(), small_images(12)
    kept = StoredViews(reader, images, TRAIN, READS, 5, 2, tmp_path)
    stores = [s.read(slice(None), (2,))[2].mean for s in kept.passes]
    steps = [inputs.of([2], 'mean') for inputs, _ in kept.steps(0, 10)]
    again = [inputs.of([2], 'mean') for inputs, _ in kept.steps(4, 10)]
    assert all(torch.equal(a, b) for a, b in zip(steps[4:], again, strict=True))
    drawn = torch.cat(steps)
    for epoch in range(4):
        mine, wanted = drawn[12 * epoch : 12 * epoch + 12], stores[epoch % 2]
        assert torch.equal(mine.sort(0).values, wanted.sort(0).values)
    assert not torch.equal(drawn[:12], drawn[24:36])  # another order


def test_a_killed_store_goes_on_and_damage_is_found(tmp_path, monkeypatch, capsys):
    reader, images, views = small_reader(), small_images(), Views(28)
    whole = stored(reader, images, views, [0, 2], tmp_path / 'a', batch=8)
    folder = tmp_path / 'b'
    calls = []
    real = pooled_store._values

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(pooled_store, '_values', dies)
    with pytest.raises(KeyboardInterrupt):
        stored(reader, images, views, [0, 2], folder, batch=8)
    found = stored(reader, images, views, [0, 2], folder, batch=8)
    assert len(calls) == 3 + 3  # 5 chunks: two were done, the third died and is among the rest
    for name, array in whole.arrays.items():
        assert np.array_equal(array, found.arrays[name])
    file = next(folder.glob('*/mean_02.npy'))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    mended = stored(reader, images, views, [0, 2], folder, batch=8)
    assert len(calls) == 7
    assert 'damaged' in capsys.readouterr().err
    assert np.array_equal(mended.arrays['mean_02'], whole.arrays['mean_02'])
    stored(reader, images, views, [0, 2], folder, batch=8)
    assert len(calls) == 7


def test_whatever_differs_has_a_store_of_its_own(tmp_path):
    images = small_images()
    cases = [
        (small_reader(), images, Views(28), [0, 2]),
        (small_reader(seed=1), images, Views(28), [0, 2]),
        (small_reader(), small_images(seed=1), Views(28), [0, 2]),
        (small_reader(), images.limited(8, 0), Views(28), [0, 2]),
        (small_reader(), images, Views(42), [0, 2]),
        (small_reader(), images, Views(28, crop_ratio=0.8), [0, 2]),
        (small_reader(), images, Views(42), [0, 1, 2]),
    ]
    for case in cases:
        stored(*case, tmp_path)
    keys = [json.loads(f.read_text())['key'] for f in tmp_path.glob('*/state.json')]
    assert len(keys) == len(cases)


def test_a_store_with_more_layers_serves(tmp_path):
    images, reader = small_images(), small_reader()
    whole = stored(reader, images, Views(28), [0, 1, 2], tmp_path)
    images_read = reader.cost.images
    part = stored(reader, images, Views(28), [1], tmp_path)
    assert reader.cost.images == images_read
    rows = np.array([3, 1])
    assert torch.equal(part.read(rows, [1])[1].mean, whole.read(rows, [1])[1].mean)
    stored(reader, images.limited(10, 0), Views(28), [1], tmp_path)
    assert reader.cost.images == images_read + 10


def test_what_does_not_fit_the_disk_is_said_before_it_starts(tmp_path, monkeypatch):
    class Full:
        free = 1 << 20

    monkeypatch.setattr(disk.shutil, 'disk_usage', lambda path: Full)
    with pytest.raises(ValueError, match=r'features take .* KiB and .* has 1.0 MiB free'):
        stored(small_reader(), small_images(), Views(28), [0], tmp_path)


def test_a_disk_that_fills_up_ends_in_one_line(tmp_path, monkeypatch):
    """What is written through a map would end the process with SIGBUS."""
    real = os.posix_fallocate

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = small_reader(), small_images(), Views(28), [0], tmp_path
    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(ValueError, match=r'No space left on device\. .* the same command again'):
        stored(*arguments)
    monkeypatch.setattr(os, 'posix_fallocate', real)
    store = stored(*arguments)
    assert all(f.stat().st_blocks * 512 >= f.stat().st_size for f in store.folder.glob('*.npy'))


def test_a_second_process_waits_for_the_first(tmp_path, capsys):
    arguments = small_reader(), small_images(), Views(28), [0], tmp_path
    folder = stored(*arguments).folder
    code = (
        'import fcntl, time\n'
        f'lock = open({str(folder / ".lock")!r}, "w")\n'
        'fcntl.flock(lock, fcntl.LOCK_EX)\nprint("held", flush=True)\ntime.sleep(1)'
    )
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        stored(*arguments)
        assert other.wait() == 0
    assert 'waiting for it' in capsys.readouterr().err


def test_tokens_are_read_through_the_encoder(tmp_path):
    reader, images = small_reader(batch=16), small_images()
    features = EachOnce(reader, images, Views(28), Reads((1,), (2,)), tmp_path, 'test')
    rows, tokens = zip(*((r, i.of([2], 'attention_pooling')) for r, i in features), strict=True)
    assert torch.cat(tokens).shape == (40, 5, 32)
    assert [r.stop for r in rows] == [16, 32, 40]
    with pytest.raises(ValueError, match='attention pooling reads all tokens'):
        StoredViews(reader, images, TRAIN, Reads((), (2,)), 8, 1, tmp_path)
