"""Heads that train together: as if alone, as in PyTorch and timm, and across a kill."""

import math

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from torch import nn

from mmdet_seg.probes.classify_grid import dinov2_probes, internvit_probes
from mmdet_seg.probes.classify_inputs import FreshViews, Reads, StoredViews
from mmdet_seg.probes.classify_loop import train
from mmdet_seg.probes.classify_train import RECIPES, HeadBank, Probe, Recipe
from mmdet_seg.probes.classify_views import Views
from tests.golden_data import assert_close
from tests.test_probes.classify_cases import small_images, small_reader

RECIPE = Recipe(
    'internvit', rate_per=16, batch=8, epochs=2, warmup_epochs=0.5, nesterov=True, clip=0.5,
    mixup=0.8, cutmix=1.0, smoothing=0.1, ema=0.9,
)  # fmt: skip
VIEWS = Views(28, augmented=True, mixup=0.8, cutmix=1.0, seed=0)


def bank_of(probes, reader, recipe=RECIPE, steps=10):
    return HeadBank(probes, recipe, reader.encoder, 4, steps)


def run(probes, folder, source, recipe=RECIPE, steps=10, reader=None):
    bank = bank_of(probes, reader or small_reader(), recipe, steps)
    train(bank, source, folder, 'key')
    return bank


def weights(head):
    return torch.cat([v.double().flatten() for v in head.state_dict().values()])


@pytest.mark.parametrize('fresh', [True, False])
def test_every_head_trains_as_if_alone(tmp_path, fresh):
    """Weights equal to those of a run of its own, to the last bit."""
    probes = [
        Probe('a', (2,), 'cls_patch_concat', 'bn', 0.1),
        Probe('b', (0, 2), 'class', 'none', 1.0, 0.01, 1),
        Probe('c', (1,), 'mean', 'bn', 0.3, 0.0, 2),
        Probe('diverges', (2,), 'cls_patch_concat', 'none', 1e38, 1e30),
    ]
    probes += [Probe('d', (2,), 'attention_pooling', 'bn', 0.1)] if fresh else []
    reader, images = small_reader(), small_images()

    def source(some):
        reads = Reads.of((p.layers, p.pooling) for p in some)
        if fresh:
            return FreshViews(reader, images, VIEWS, reads, 8)
        return StoredViews(reader, images, VIEWS, reads, 8, 2, tmp_path / 'store')

    (tmp_path / 'out').mkdir()
    together = run(probes, tmp_path / 'out', source(probes))
    assert list(together.failed) == ['diverges']
    for i, probe in enumerate(probes):
        if probe.name == 'diverges':
            continue
        alone = run([probe], tmp_path / 'out', source([probe]))
        assert torch.equal(weights(together.heads[i]), weights(alone.heads[0])), probe.name
        assert torch.equal(weights(together.averages[i]), weights(alone.averages[0]))
        start = bank_of([probe], reader).heads[0]
        assert not torch.equal(weights(together.heads[i]), weights(start))


def test_a_head_trains_as_in_pytorch_and_timm(tmp_path):
    """The published recipe against BatchNorm1d, SGD, timm's schedule, loss and clipping."""
    reader, images = small_reader(), small_images()
    probe = Probe('a', (2,), 'cls_patch_concat', 'bn', 0.1)
    recipe = Recipe(
        'internvit', rate_per=16, batch=8, epochs=2, nesterov=True, clip=0.5, smoothing=0.1
    )  # fmt: skip
    recipe_warm = Recipe(**{**recipe.__dict__, 'warmup_epochs': 0.4})
    source = FreshViews(reader, images, VIEWS, Reads((2,)), 8)
    bank = bank_of([probe], reader, recipe_warm)
    peer = nn.Sequential(nn.BatchNorm1d(64, eps=1e-6), nn.Linear(64, 4))
    peer[0].load_state_dict(bank.heads[0].norm.state_dict())
    peer[1].load_state_dict(bank.heads[0].head.state_dict())
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.1 * 8 / 16, momentum=0.9, nesterov=True)
    schedule = CosineLRScheduler(optimizer, 10, warmup_t=2, warmup_lr_init=0.0, t_in_epochs=False)
    for step, (inputs, targets) in enumerate(source.steps(0, 10)):
        schedule.step_update(step)
        soft = targets.dense(4) * 0.9 + 0.1 / 4
        loss = SoftTargetCrossEntropy()(peer(inputs.of((2,), 'cls_patch_concat')), soft)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        optimizer.step()
    train(bank, source, tmp_path, 'key')
    assert_close(bank.heads[0].head.weight, peer[1].weight, 1e-5)
    assert_close(bank.heads[0].norm.running_var, peer[0].running_var, 1e-5)
    assert bank.rate(probe) == pytest.approx(0.05)


def test_the_published_recipes():
    internvit, dinov2 = RECIPES['internvit'], RECIPES['dinov2']
    big = small_reader().encoder
    (probe,) = internvit_probes(big, None, ['cls_patch_concat'], ['bn'], None, [0.0], [0])
    bank = HeadBank([probe], internvit, big, 4, 12510)
    assert bank.rate(probe) == pytest.approx(0.2)  # 8 x 128 images
    assert internvit.num_steps(1_281_167) == 12510
    assert internvit.factor(0, 12510) == 0.0
    assert dinov2.factor(0, 12510) == 1.0
    grid = dinov2_probes(big, [1, 3], ['class', 'cls_patch_concat'], None, [0.0], [0])
    assert len(grid) == 2 * 2 * 13
    assert len({p.name for p in grid}) == len(grid)
    with pytest.raises(ValueError, match='do not fill a batch of 1024: --batch'):
        internvit.num_steps(300)


@pytest.mark.parametrize('stop', [1, 6])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, stop):
    probes = [
        Probe('a', (2,), 'cls_patch_concat', 'bn', 0.1),
        Probe('b', (1,), 'class', 'none', 0.1),
    ]
    reader, images = small_reader(), small_images()
    reads = Reads.of((p.layers, p.pooling) for p in probes)
    source = FreshViews(reader, images, VIEWS, reads, 8)
    for name in ('whole', 'parts'):
        (tmp_path / name).mkdir()
    bank = bank_of(probes, reader)
    curves = train(bank, source, tmp_path / 'whole', 'key', lambda: {'a': 1.0})

    class Dies(FreshViews):
        def steps(self, start, end):
            for i, found in enumerate(super().steps(start, end)):
                if i == stop:
                    raise KeyboardInterrupt
                yield found

    dying = Dies(reader, images, VIEWS, reads, 8)
    with pytest.raises(KeyboardInterrupt):
        train(bank_of(probes, reader), dying, tmp_path / 'parts', 'key', lambda: {'a': 1.0})
    again = bank_of(probes, reader)
    found = train(again, source, tmp_path / 'parts', 'key', lambda: {'a': 1.0})
    for one, other in zip(bank.heads + bank.averages, again.heads + again.averages, strict=True):
        assert torch.equal(weights(one), weights(other))
    assert found == curves
    assert [s for s, _ in curves['b']['loss']] == list(range(1, 11))


def test_other_settings_do_not_go_on(tmp_path, capsys):
    probes = [Probe('a', (2,), 'cls_patch_concat', 'bn', 0.1)]
    reader, images = small_reader(), small_images()
    source = FreshViews(reader, images, VIEWS, Reads((2,)), 8)

    class Dies(FreshViews):
        def steps(self, start, end):
            yield next(super().steps(start, end))
            raise KeyboardInterrupt

    dying = Dies(reader, images, VIEWS, Reads((2,)), 8)
    with pytest.raises(KeyboardInterrupt):
        train(bank_of(probes, reader), dying, tmp_path, 'k')
    assert f'--out {tmp_path} goes on' in capsys.readouterr().err
    bank = bank_of(probes, reader)
    train(bank, source, tmp_path, 'another')
    assert 'training starts anew' in capsys.readouterr().err
    assert bank.done == 10
    assert all(math.isfinite(x) for x in weights(bank.heads[0]))
