"""A feature store gives what the encoder gives, or says in one line why it cannot."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from mmdet_seg.probes import feature_plan
from mmdet_seg.probes.feature_build import build_store
from mmdet_seg.probes.feature_plan import plan_store
from mmdet_seg.probes.feature_store import FeatureStore
from mmdet_seg.probes.frozen_encoder import open_encoder
from tests.test_probes.stored_views import VIEWS, NoiseViews

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def encoder():
    return open_encoder('random:tiny')


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(feature_plan, '_SHARD_BYTES', 1 << 13)  # 5 views in bf16


def build(encoder, folder, count=12, views=None, layers=(1, 3), description=VIEWS, **options):
    views = views or NoiseViews(count)
    return build_store(encoder, views, description, layers, folder, batch_size=2, **options)


@pytest.mark.parametrize('dtype', ['bf16', 'fp32', 'int8'])
@pytest.mark.parametrize('computed', ['bf16', 'fp32'])
def test_what_comes_back_is_what_the_encoder_gives(computed, dtype, tmp_path):
    encoder = open_encoder('random:tiny', dtype=computed)
    views = NoiseViews(12)
    store = build(encoder, tmp_path, views=views, dtype=dtype)
    chosen = [7, 0, 11]
    found, labels = store.batch(chosen)
    expected = encoder.features(views.images(chosen), [1, 3])
    assert torch.equal(labels, torch.stack([views[i][1] for i in chosen]))
    for layer in (1, 3):
        for a, b in zip(found[layer], expected[layer], strict=True):
            assert a.shape == b.shape
            if dtype in ('fp32', computed):
                assert torch.equal(a.float(), b.float())
            else:
                rms = (
                    a.float() - b.float()
                ).square().mean().sqrt() / b.float().square().mean() ** 0.5
                assert 0 < rms < 1.3 * store.error(layer)['rms'] + 0.003 < 0.02


def test_int8_keeps_channels_that_are_small(tmp_path):
    """One channel a thousand times as large as the others takes nothing from them."""
    encoder = open_encoder('random:tiny', dtype='fp32')
    with torch.no_grad():
        encoder.encoder.pos_embed[..., 5] += 1000
    views = NoiseViews(8)
    store = build(encoder, tmp_path, views=views, layers=[0], dtype='int8')
    a = store.batch([1, 6])[0][0].patches
    b = encoder.features(views.images([1, 6]), [0])[0].patches
    assert b[:, 5].abs().mean() > 500 * b[:, 6:].abs().mean()
    error = (a - b)[:, 6:].square().mean().sqrt() / b[:, 6:].square().mean().sqrt()
    assert error < 0.02


def test_further_layers_join_without_another_pass_over_the_first(encoder, tmp_path, monkeypatch):
    build(encoder, tmp_path, layers=[3])
    asked = []
    features = encoder.features

    def counted(images, layers, **options):
        asked.append(layers)
        return features(images, layers, **options)

    monkeypatch.setattr(encoder, 'features', counted)
    store = build(encoder, tmp_path, layers=[-1, 0])
    assert {tuple(x) for x in asked} == {(0,)}
    assert store.layers == (0, 3)
    asked.clear()
    views = NoiseViews(12)
    assert build(encoder, tmp_path, views=views, layers=[0]).layers == (0, 3)
    assert not asked
    assert views.asked == [0]  # for its size


def test_keys_never_mix(encoder, tmp_path):
    first = build(encoder, tmp_path)
    others = [
        build(open_encoder('random:tiny', dtype='fp32'), tmp_path),
        build(encoder, tmp_path, description={**VIEWS, 'seed': 1}),
        build(encoder, tmp_path, dtype='int8'),
        build(encoder, tmp_path, count=11),
    ]
    changed = open_encoder('random:tiny')
    changed.mean = (0.0, 0.0, 0.0)
    others.append(build(changed, tmp_path))
    assert len({x.folder for x in [first, *others]}) == 6
    with pytest.raises(ValueError, match='another encoder or of other views'):
        FeatureStore(others[0].folder, key=first.key)
    shutil.rmtree(first.folder)
    shutil.copytree(others[0].folder, first.folder)
    with pytest.raises(ValueError, match='another store'):
        build(encoder, tmp_path)


def test_it_goes_on_after_kill_9(tmp_path):
    code = [sys.executable, '-m', 'tests.test_probes.stored_views', str(tmp_path)]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(code, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts['same']
    assert facts['left'] == sorted(facts['left'])
    assert 0 < facts['left'][-1] < 20  # of 10 shards in 2 layers: it was killed on the way
    assert facts['asked'] < 40  # what was complete is not computed again


@pytest.mark.parametrize('what', ['layer_01/00001.bin', 'labels/00001.bin'])
@pytest.mark.parametrize('how', ['cut', 'changed'])
def test_what_is_broken_is_found_and_made_anew(encoder, tmp_path, what, how):
    before = build(encoder, tmp_path)
    expected = before.batch(list(range(12)))
    path = before.folder / what
    data = bytearray(path.read_bytes())
    if how == 'cut':
        path.write_bytes(data[:-7])
    else:
        data[100] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match='has changed since it was written') as caught:
            FeatureStore(before.folder).batch(list(range(12)))
        assert what in str(caught.value)
        assert '\n' not in str(caught.value)
    views = NoiseViews(12)
    after = build(encoder, tmp_path, views=views)
    assert 5 <= len(set(views.asked)) < 12  # the first view for its size, and those of the shard
    for a, b in zip(expected[0].values(), after.batch(list(range(12)))[0].values(), strict=True):
        assert torch.equal(a.patches, b.patches)
    after.verify()


def test_a_changed_scale_is_no_longer_believed(encoder, tmp_path):
    store = build(encoder, tmp_path, dtype='int8')
    file = store.folder / 'layer_01' / 'layer.json'
    fitted = json.loads(file.read_text())
    fitted['scale'][0] *= 2
    file.write_text(json.dumps(fitted))
    assert FeatureStore(store.folder).layers == (3,)


def test_what_does_not_fit_is_said_before(encoder, tmp_path, monkeypatch):
    plan = plan_store(encoder, 1000, (504, 504), VIEWS, [0, 1, 2, 3], tmp_path)
    assert plan.bytes_per_layer == 1000 * (1 + 36 * 36) * 32 * 2
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(0, 0, (256 << 20) + 1000))
    views = NoiseViews(12)
    with pytest.raises(ValueError, match=r'int8 .*or a folder on another disk') as caught:
        build(encoder, tmp_path, views=views)
    assert '\n' not in str(caught.value)
    assert views.asked == [0]
    assert not list(tmp_path.iterdir())


def test_the_plan_is_what_it_takes(encoder, tmp_path):
    store = build(encoder, tmp_path)
    plan = plan_store(encoder, 12, (56, 84), VIEWS, [1, 3], tmp_path, label_shape=(28, 42))
    assert plan.complete
    assert plan.missing == 0
    written = sum(p.stat().st_size for p in store.folder.rglob('layer_*/*.bin'))
    assert written == 2 * plan.bytes_per_layer == 2 * 12 * 25 * 32 * 2
    packed = sum(p.stat().st_size for p in store.folder.rglob('labels/*.bin'))
    assert packed < 0.9 * plan.label_bytes  # five classes


def test_steps_depend_on_their_number_alone(encoder, tmp_path):
    store = build(encoder, tmp_path)
    order = [i for step in range(6) for i in store.order(step, 4, seed=3)]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:] != list(range(12))
    assert order != [i for step in range(6) for i in store.order(step, 4, seed=4)]
    again = FeatureStore(store.folder)
    later = list(again.batches(4, seed=3, start=4, stop=6, layers=[3]))
    assert len(later) == 2
    for step, (features, labels) in zip((4, 5), later, strict=True):
        expected, truth = store.batch(order[4 * step : 4 * step + 4], [3])
        assert torch.equal(features[3].patches, expected[3].patches)
        assert torch.equal(labels, truth)


def test_labels_come_back_whatever_they_are(encoder, tmp_path):
    views = NoiseViews(12, labels=60000)
    store = build(encoder, tmp_path, views=views)
    assert torch.equal(store.labels([5, 2]), torch.stack([views[5][1], views[2][1]]))
    with pytest.raises(ValueError, match=r'labels are 0 .. 65535'):
        build(encoder, tmp_path / 'more', views=NoiseViews(12, labels=100000))


def test_views_of_another_size_are_refused(encoder, tmp_path):
    class Growing(NoiseViews):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return torch.nn.functional.pad(image, (0, 14 * (index > 7))), label

    with pytest.raises(ValueError, match='View 8 has 56x98'):
        build(encoder, tmp_path, views=Growing(12))


def test_no_prefix_is_no_prefix(tmp_path):
    encoder = open_encoder('random:tiny')
    encoder.encoder.drop_class_token()
    encoder.num_prefix_tokens = 0
    views = NoiseViews(3)
    store = build(encoder, tmp_path, views=views)
    found, expected = store.batch([2])[0][3], encoder.features(views.images([2]), [3])[3]
    assert found.prefix.shape == (1, 0, 32)
    assert torch.equal(found.patches, expected.patches)


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError(28, 'No space left on device')])
def test_what_was_done_stays(encoder, tmp_path, error, capsys, monkeypatch):
    class Ending(NoiseViews):
        def __getitem__(self, index):
            if index == 7:
                raise error
            return super().__getitem__(index)

    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ValueError
    with pytest.raises(kind) as caught:
        build(encoder, tmp_path, views=Ending(12))
    said = capsys.readouterr().err if kind is KeyboardInterrupt else str(caught.value)
    assert 'the same command' in said
    views = NoiseViews(12)
    build(encoder, tmp_path, views=views)
    assert min(set(views.asked) - {0}) == 5


def test_a_second_writer_waits(encoder, tmp_path):
    store = build(encoder, tmp_path)
    code = (
        'import fcntl, sys, time\n'
        f'lock = open({str(store.folder / ".lock")!r}, "w")\n'
        'fcntl.flock(lock, fcntl.LOCK_EX)\nprint("held", flush=True)\ntime.sleep(60)'
    )
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert build(encoder, tmp_path).key == store.key  # nothing to write, nobody in the way
        (store.folder / 'layer_01/00000.json').unlink()
        with pytest.raises(ValueError, match='written by another process'):
            build(encoder, tmp_path)
        other.kill()
    build(encoder, tmp_path)


def test_no_store_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match='no feature store'):
        FeatureStore(tmp_path)
    (tmp_path / 'store.json').write_text('{"format": 1, "key": "x", "of": {}}')
    with pytest.raises(ValueError, match='cannot be read'):
        FeatureStore(tmp_path)
