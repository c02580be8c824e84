"""Probes beside PyTorch's own layers, the authors' head, and themselves alone."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_seg.probes.probe_bank import NORMS, ProbeBank, ProbeSpec
from mmdet_seg.probes.protocols import (
    PROTOCOLS,
    SHORT,
    changes,
    get_protocol,
    rate_factor,
)
from tests.golden_data import assert_close, load_case, load_meta

D, C, LAYERS = 12, 5, (1, 2)


def maps(seed=0):
    """Channels with means and spreads of their own, as those of encoders have."""
    torch.manual_seed(seed)
    return {
        i: torch.randn(3, D, 4, 5) * torch.rand(D, 1, 1) + 5 * torch.randn(D, 1, 1) for i in LAYERS
    }


def stock(probe, patches, training, mask=None):
    """The same in PyTorch's layers, on concatenated maps."""
    spec = probe.spec
    parts = [patches[i] for i in spec.layers]
    if spec.norm == 'ln':
        parts = [
            F.layer_norm(x.permute(0, 2, 3, 1), (D,), eps=1e-6).permute(0, 3, 1, 2) for x in parts
        ]
    x = torch.cat(parts, dim=1)
    if mask is not None:
        x = x * mask[:, :, None, None]
    mean, var = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    if spec.norm == 'bn':
        if not training:
            mean, var = probe.running_mean, probe.running_var
        x = F.batch_norm(x, mean, var, probe.norm_weight, probe.norm_bias, training)
    return F.conv2d(x, probe.weight[:, :, None, None], probe.bias).permute(0, 2, 3, 1), mean, var


@pytest.mark.parametrize('layers', [(1,), (2, 1)])
@pytest.mark.parametrize('dropout', [0.0, 0.4])
@pytest.mark.parametrize('norm', NORMS)
def test_equals_stock_layers(norm, dropout, layers):
    bank = ProbeBank([ProbeSpec(layers, norm, dropout=dropout)], D, C)
    [probe] = bank.probes
    if norm == 'bn':
        torch.nn.init.normal_(probe.norm_weight)
        torch.nn.init.normal_(probe.norm_bias)
    patches = maps()
    found = bank.prepare(patches, training=True)
    logits = probe(found, step=7)
    mask = probe._masks(found, 7)
    assert (mask is None) == (dropout == 0)
    expected, mean, var = stock(probe, patches, True, mask)
    assert_close(logits, expected, 1e-5)
    upstream = torch.randn(expected.shape)
    ours = torch.autograd.grad(logits, list(probe.parameters()), upstream)
    theirs = torch.autograd.grad(expected, list(probe.parameters()), upstream)
    scale = max(x.abs().max() for x in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-5 * scale
    if norm == 'bn':
        assert_close(probe.running_mean, mean, 1e-5)
        assert_close(probe.running_var, var, 1e-5)
    tested = probe(bank.prepare(patches, training=False))
    assert_close(tested, stock(probe, patches, False)[0], 1e-5)


def test_dropout_takes_whole_channels_of_an_image_anew_each_step():
    bank = ProbeBank([ProbeSpec((1, 2), dropout=0.5), ProbeSpec((1, 2), dropout=0.5, seed=1)], D, C)
    found = bank.prepare(maps(), training=True)
    one, other = (p._masks(found, 3) for p in bank.probes)
    assert one.shape == (3, 2 * D)
    assert set(one.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(one, other)
    assert not torch.equal(one, bank.probes[0]._masks(found, 4))
    assert torch.equal(one, bank.probes[0]._masks(found, 3))


def test_a_probe_does_not_notice_the_others():
    specs = [
        ProbeSpec((1,)),
        ProbeSpec((2, 1), 'ln', seed=3),
        ProbeSpec((2,), dropout=0.3),
        ProbeSpec((2,), 'none'),
    ]
    together = ProbeBank(specs, D, C)
    for spec, probe in zip(specs, together.probes, strict=True):
        alone = ProbeBank([spec], D, C)
        a = probe(together.prepare(maps(), True), 0)
        b = alone.probes[0](alone.prepare(maps(), True), 0)
        assert torch.equal(a, b)
        for x, y in zip(probe.state_dict().values(), alone.state_dict().values(), strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize(('case', 'norm'), [('B_fcnhead_norm', 'bn'), ('B_fcnhead_nonorm', 'none')])
def test_the_authors_head(case, norm):
    golden = load_case(case)
    state = golden.state_dict
    weight = state['conv_seg.weight'].flatten(1)
    bank = ProbeBank([ProbeSpec((0,), norm)], weight.shape[1], len(weight))
    [probe] = bank.probes
    theirs = {'weight': weight, 'bias': state['conv_seg.bias']}
    if norm == 'bn':
        theirs |= {
            'norm_weight': state['norm.weight'],
            'norm_bias': state['norm.bias'],
            'running_mean': state['norm.running_mean'],
            'running_var': state['norm.running_var'],
        }
    probe.load_state_dict(theirs)
    [x], [y] = golden.inputs.values(), golden.outputs.values()
    logits = probe(bank.prepare({0: x}, training=False))
    assert_close(logits.permute(0, 3, 1, 2), y)


def test_what_a_grid_must_not_hold():
    with pytest.raises(ValueError, match='more than once'):
        ProbeBank([ProbeSpec((1,)), ProbeSpec((1,))], D, C)
    with pytest.raises(ValueError, match="norm 'gn' is not one of bn, ln, none"):
        ProbeBank([ProbeSpec((1,), 'gn')], D, C)


def test_rates_are_the_authors():
    rows = load_meta('M_optimizer_schedule')['schedule']['rows']
    protocol = get_protocol('internvit')
    for step, rate, *_ in rows:
        if step < protocol.iters:
            assert protocol.lr * rate_factor(protocol, step) == pytest.approx(rate, rel=1e-12)


def test_rates_are_mmengines():
    from mmengine.optim import LinearLR, PolyLR

    protocol = get_protocol('radio')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    W, T = 15, 80
    short = type(protocol)(**{**vars(protocol), 'iters': T, 'warmup': W})
    schedulers = [
        LinearLR(optimizer, start_factor=1e-6, by_epoch=False, begin=0, end=W),
        PolyLR(optimizer, eta_min=0.0, power=1.0, by_epoch=False, begin=W, end=T),
    ]
    for step in range(T):
        assert rate_factor(short, step) == pytest.approx(optimizer.param_groups[0]['lr'], abs=1e-9)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_rates_of_one_cycle_fall_as_pytorchs_cosine():
    protocol = get_protocol('dinov3')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    short = type(protocol)(**{**vars(protocol), 'iters': 50, 'warmup': 5})
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        if step > 5:  # one step ahead, and one behind for the first step, which is taken twice
            assert rate_factor(short, step) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()
    assert rate_factor(short, 0) == rate_factor(short, 1) == pytest.approx(1e-6)


def test_protocols_say_what_a_run_changes():
    with pytest.raises(ValueError, match='--protocol dino: there are internvit, dinov2, dinov3'):
        get_protocol('dino')
    published = PROTOCOLS['dinov3']
    assert changes(published, published) == []
    short = type(published)(**{**vars(published), **SHORT, 'lr': 0.01})
    assert "lr 0.01 (the protocol's: 0.001)" in changes(short, published)
    assert len(changes(short, published)) == len(SHORT) + 1
