"""The plan against what is measured, against published figures, and against itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmdet_seg.engine.activation_memory import trace_step
from mmdet_seg.engine.memory_plan import GIB, Planner, usable
from mmdet_seg.engine.model_facts import PERSISTENT
from mmdet_seg.engine.plan_choice import Machine, choose, command
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.strategy_memory import BUCKET, share
from tests.small_runs import ROOT, run_job

OPTIONS = {'train_dataloader.batch_size': 2, 'crop_size': (112, 112)}
MIB = 1 << 20


def planner(config='upernet_internvit', cuda=True, **kwargs):
    return Planner(load_recipe(config, **kwargs), cuda)


def measured(tmp_path, name, options, tune=None) -> dict[str, int]:
    """Of the first process of two, or of the only one."""
    job = {'strategy': name, 'tune': tune, 'options': options}
    return run_job('tests.memory_process', job, tmp_path / 'job.json', 1 if name == 'single' else 2)


@pytest.mark.parametrize(
    ('name', 'tune'),
    [
        ('single', None),
        *(  # half a minute each
            pytest.param(name, None, marks=pytest.mark.slow)
            for name in ('ddp', 'zero1', 'zero2', 'zero3', 'zero3_offload', 'fsdp')
        ),
        *(
            pytest.param(name, 'head', marks=pytest.mark.slow)
            for name in ('single', 'ddp', 'zero3', 'fsdp')
        ),
        pytest.param('single', 'lora', marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_what_was_planned(tmp_path, name, tune):
    """Every kind and the total within a tenth of what PyTorch's allocator reports on the CPU."""
    num = 1 if name == 'single' else 2
    plan = planner(arch='small', tune=tune, options=OPTIONS, cuda=False)
    moments = plan.moments(name, num, 2)
    host = plan.at(name, num, 2).host
    got = measured(tmp_path, name, OPTIONS, tune)

    def kinds(moment, *names):
        return sum(moments[moment].get(n, 0) for n in names)

    hosted = host.get('weights', 0)
    weights = kinds('step', 'weights', 'frozen weights') + hosted
    states = kinds('step', 'optimizer states') + host.get('optimizer states', 0)
    before = sum(moments['update'].values()) - kinds('update', 'set aside by the update')
    before += sum(host.values()) - host.get('update', 0)
    peak = sum(moments['step'].values()) + sum(host.values()) - host.get('update', 0)
    assert got['weights'] == pytest.approx(weights, rel=0.1)
    assert got['states'] == pytest.approx(states, rel=0.1)
    # Gradients, master weights and standing buffers, with the images and labels.
    others = got['before the update'] - got['weights'] - got['states']
    assert others == pytest.approx(before - weights - states, rel=0.1, abs=MIB)
    assert got['peak'] == pytest.approx(peak, rel=0.1)
    # As the kernel counts what goes through the sockets; votes and norms are some kilobytes.
    assert got['sent'] == pytest.approx(plan.at(name, num, 2).wire, rel=0.1, abs=100_000)


def test_batches_lie_on_a_line():
    """A step of six images is what the steps of two and three say it is."""
    plan = planner(arch='tiny', options={'crop_size': (56, 56)})
    two, three = plan.step(2), plan.step(3)
    six = trace_step(plan.model, 6, plan.crop, autocast=torch.bfloat16)
    assert np.array_equal(two.at(6, three).alive, six.alive)


def test_checkpointing_trades_activations():
    key = 'model.backbone.grad_checkpointing'
    plans = [planner(arch='300m-448px', options={key: value}) for value in (False, True)]
    plain, again = (int(p.step(2).alive[:, 0].max()) for p in plans)
    assert again < plain / 2


def test_frozen_weights_are_whole_everywhere_and_have_no_states():
    plan = planner('upernet_internvit_frozen', arch='300m-448px-v2-5', data='ade20k')
    encoder = plan.model.backbone
    size = sum(b.numel() * b.element_size() for b in encoder.buffers())
    assert size == pytest.approx(2 * 304e6, rel=0.02)  # bfloat16
    for name in ('ddp', 'zero3', 'fsdp'):
        parts = plan.at(name, 8, 2).parts
        assert parts['frozen weights'] >= size
    assert plan.facts.states == 2  # AdamW's two, of what trains only
    assert plan.facts.trained == sum(p.numel() * 4 for p in plan.model.parameters())


@pytest.mark.parametrize(
    ('optimizer', 'states'),
    [
        (dict(type='SGD', lr=0.1), 0),
        (dict(type='SGD', lr=0.1, momentum=0.9), 1),
        (dict(type='Adam', lr=0.1, amsgrad=True), 3),
    ],
)
def test_states_come_from_the_optimizer(optimizer, states):
    cfg = load_recipe('linear_internvit', arch='tiny')
    cfg.optim_wrapper.optimizer = optimizer
    assert Planner(cfg).facts.states == states


def test_a_moving_average_is_counted():
    without, with_it = planner(arch='tiny'), planner(arch='tiny', options={'ema.decay': 0.9})
    size = 4 * with_it.facts.elements
    for name, more in (('ddp', size), ('zero2', size), ('zero3', size / 4), ('fsdp', size / 4)):
        grown = with_it.at(name, 4, 2).total - without.at(name, 4, 2).total
        assert grown == pytest.approx(more, abs=2)
    hosted = with_it.at('zero3_offload', 4, 2).host
    assert hosted['moving average'] == pytest.approx(size / 4, abs=1)


def test_what_is_sent_is_what_the_collectives_send():
    """Ring algorithms: all-reduce 2 (N - 1) / N, reduce-scatter and all-gather half of it."""
    facts = planner(arch='tiny').facts
    W = facts.trained
    assert share('single', facts, 1).wire == 0
    assert share('ddp', facts, 4).wire == pytest.approx(2 * 0.75 * W)
    assert share('zero1', facts, 4).wire == pytest.approx(3 * 0.75 * W)
    assert share('fsdp', facts, 4).wire == pytest.approx(0.75 * (2 * W + facts.blocks))
    assert share('zero3', facts, 4).wire == pytest.approx(0.75 * 2 * W)  # kept for backward
    twice = replace(facts, accumulate=2)
    assert share('ddp', twice, 4).wire == share('ddp', facts, 4).wire
    assert share('zero2', twice, 4).wire == pytest.approx(5 * 0.75 * W)


def test_published_logits():
    """150 classes at full resolution: 157 MB per image of 512 x 512, twice with the gradient.

    Source: spec of dense prediction, `Upsampling logits to image size`: 150 x 512^2 x fp32.
    """
    plan = planner('linear_internvit', arch='300m-448px', data='ade20k')
    one = 157e6 * (504 / 512) ** 2
    logits = plan.step(2).alive[:, 1].max() / 2
    assert logits / one == pytest.approx(round(logits / one), rel=0.01)
    assert logits >= 2 * one * 0.99


@pytest.mark.slow  # half a minute
def test_published_frozen_6b():
    """A frozen 6B encoder in bf16 is 12 GB, a master copy in fp32 would be 24.

    Source: spec of dense prediction, `fp32 master copy of a frozen 6B`; the published .pth has
    12 GB.
    """
    plan = planner('upernet_internvit_frozen', arch='6b-224px', data='ade20k')
    assert plan.facts.frozen == pytest.approx(12e9, rel=0.03)


def test_the_cheapest_that_fits_and_smaller_steps_where_nothing_does():
    plan = planner(arch='300m-448px', data='ade20k')
    sizes = {name: plan.at(name, 8, 2).total for name in ('ddp', 'zero1', 'fsdp')}

    def room(size):
        return Machine(8, int((size + 1.5 * GIB) / 0.95) + MIB)

    assert choose(plan, room(sizes['ddp'])).name == 'ddp'
    assert choose(plan, room(sizes['ddp'] - 10 * MIB)).name != 'ddp'
    least = min(plan.at(n, 8, 2).total for n in ('zero2', 'zero3', 'zero3_offload', 'fsdp'))
    small = choose(plan, room(least - 50 * MIB))
    assert (small.batch, small.accumulate) == (1, 2)
    words = command('c', room(0), {'arch': 'a', 'protocol': 'ours'}, 2, small)
    assert words.startswith('torchrun --nproc_per_node 8 tools/train.py c --arch a --strategy ')
    assert 'batch_size=1 optim_wrapper.accumulative_counts=2' in words
    assert choose(plan, Machine(8, 2 * GIB)) is None


def test_the_largest_batch_fits_and_one_more_does_not():
    plan = planner(arch='300m-448px', data='ade20k')
    most = plan.largest_batch('ddp', 8, 24 * GIB)
    assert plan.at('ddp', 8, most).total <= usable(24 * GIB) < plan.at('ddp', 8, most + 1).total
    assert plan.smallest_batch(1) == 2  # a pooled map of a single image has one value per channel


def test_memory_of_the_host_is_a_limit_where_it_is_known():
    plan = planner(arch='300m-448px', data='ade20k')
    offloaded = plan.at('zero3_offload', 1, 2)
    needed = offloaded.host_total
    assert Machine(1, 80 * GIB, needed).holds(offloaded)
    assert not Machine(1, 80 * GIB, needed - 1).holds(offloaded)
    assert not Machine(2, 80 * GIB, needed).holds(offloaded)


def test_a_config_without_training_is_refused(tmp_path):
    path = tmp_path / 'no_training.py'
    path.write_text("model = dict(type='mmseg.EncoderDecoder')\n")
    with pytest.raises(ValueError, match='has no `train_dataloader`'):
        Planner(load_recipe(str(path)))


def test_buckets_are_those_of_the_strategy():
    """Read, not imported: DeepSpeed is an optional dependency."""
    source = (ROOT / 'mmdet_seg/engine/strategies/zero.py').read_text()
    assert f'_BUCKET = {BUCKET:_} ' in source
    assert f'_PERSISTENT = {PERSISTENT:_} ' in source
