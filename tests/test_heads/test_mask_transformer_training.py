"""Schedules, groups and resumed runs of the mask transformer, and its panoptic results."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch import nn

import mmdet_seg  # noqa: F401
from mmdet_seg.backbones import InternViT
from mmdet_seg.engine import (
    LayerDecayOptimWrapperConstructor,
    MaskAnnealingHook,
    TwoStageWarmupPolyLR,
)
from mmdet_seg.engine.panoptic_quality import count_segments, qualities
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.heads.mask_transformer import MaskTransformer
from tests.small_runs import small_run, tool

LR = 1e-4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = InternViT(dict(embed_dim=16, depth=6, num_heads=1, img_size=28))
        self.decode_head = nn.Linear(4, 3)


def wrapper(**paramwise) -> tuple[Model, OptimWrapper]:
    model = Model()
    constructor = LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05)), paramwise
    )
    return model, constructor(model)


def test_rates_of_the_published_recipe():
    """EoMT: the last four blocks and the head at the full rate, below it falls from the top."""
    model, optim = wrapper(layer_decay_rate=0.8, full_rate_blocks=4, apart=True)
    rates = {id(p): g['lr'] / LR for g in optim.optimizer.param_groups for p in g['params']}
    names = dict(model.named_parameters())
    for i, expected in enumerate([0.8**5, 0.8**4, 1, 1, 1, 1]):
        assert rates[id(names[f'backbone.blocks.{i}.mlp.fc1.weight'])] == pytest.approx(expected)
    assert rates[id(names['decode_head.weight'])] == 1
    marked = {id(p): g['encoder'] for g in optim.optimizer.param_groups for p in g['params']}
    assert all(marked[id(p)] == n.startswith('backbone.') for n, p in names.items())


def test_two_stages_of_warm_up():
    """After their warm-up, both parts follow PyTorch's polynomial; before, straight lines."""
    _, optim = wrapper(apart=True)
    head_warmup, encoder_warmup, end = 5, 10, 60
    scheduler = TwoStageWarmupPolyLR(
        optim, head_warmup=head_warmup, encoder_warmup=encoder_warmup, power=0.9, end=end
    )
    found = []
    for _ in range(end):
        rates = {bool(g['encoder']): g['lr'] / LR for g in optim.optimizer.param_groups}
        found.append((rates[False], rates[True]))
        optim.step()
        scheduler.step()
    heads, encoder = np.array(found).T
    for values, start, length in ((heads, 0, head_warmup), (encoder, head_warmup, encoder_warmup)):
        assert values[:start] == pytest.approx(0)
        top = start + length
        assert values[start:top] == pytest.approx(np.arange(length) / length)
        peer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        decay = torch.optim.lr_scheduler.PolynomialLR(peer, end - top, power=0.9)
        for value in values[top:]:
            assert value == pytest.approx(decay.get_last_lr()[0])
            peer.step()
            decay.step()


def test_schedules_that_do_not_fit():
    with pytest.raises(ValueError, match='longer than the training of 9 iterations'):
        TwoStageWarmupPolyLR(wrapper(apart=True)[1], head_warmup=5, encoder_warmup=5, end=9)
    with pytest.raises(ValueError, match=r'paramwise_cfg\.apart=True'):
        TwoStageWarmupPolyLR(wrapper()[1], head_warmup=1, encoder_warmup=1, end=9)


def test_annealing_depends_on_the_iteration_alone():
    model = nn.ModuleDict(dict(head=MaskTransformer(8, 3, 5, 16)))
    runner = SimpleNamespace(model=model, iter=0, max_iters=12)
    for iteration in (0, 7, 3):
        runner.iter = iteration
        MaskAnnealingHook().before_train_iter(runner, 0)
        assert model['head'].progress == pytest.approx(iteration / 12)


def test_the_published_recipes():
    cfg = load_recipe('eomt_internvit', arch='300m-448px-v2-5', data='ade20k')
    assert cfg.param_scheduler == [
        dict(type='TwoStageWarmupPolyLR', head_warmup=500, encoder_warmup=1000, power=0.9)
    ]
    assert cfg.train_cfg.max_iters == math.floor(20210 / 16) * 31
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.01
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.8
    assert cfg.model.decode_head.num_queries == 100
    assert cfg.model.backbone.num_query_blocks == 4
    frozen = load_recipe('eomt_internvit_frozen', arch='300m-448px-v2-5', data='ade20k')
    assert list(frozen.model.backbone.out_indices) == [5, 11, 17, 23]
    assert frozen.model.decode_head.decoder.num_blocks == 6
    assert frozen.optim_wrapper.optimizer.lr == 2e-4
    warmup, decay = frozen.param_scheduler
    assert (warmup.end, decay.begin, decay.end, decay.eta_min) == (6000, 6000, 20208, 1e-9)
    with torch.device('meta'):
        init_default_scope('mmseg')
        from mmdet_seg.registry import MODELS

        model = MODELS.build(frozen.model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 45e6 < trained < 55e6


def segments(rng: np.random.Generator, classes: int, stuff: int) -> np.ndarray:
    """Rectangles over each other: things with numbers, stuff without, and holes of no class."""
    found = np.full((40, 50), -1)
    for number in range(1, 14):
        y, x = rng.integers(0, (35, 45))
        h, w = rng.integers(4, 25, 2)
        label = rng.integers(0, classes)
        found[y : y + h, x : x + w] = label + (number * 1000 if label >= stuff else 0)
    found[:3] = -1
    return found


def test_panoptic_quality_is_mmdets(tmp_path, monkeypatch):
    """mmdet's loop over COCO's files; the table of sums that it takes from panopticapi is here."""
    from mmdet.evaluation.functional import panoptic_utils

    class Sums(dict):
        def __missing__(self, key):
            return self.setdefault(key, SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))

    monkeypatch.setattr(panoptic_utils, 'PQStat', Sums)
    monkeypatch.setattr(
        panoptic_utils, 'rgb2id', lambda x: x.astype(np.int64) @ np.array([1, 256, 256**2])
    )

    def write(name: str, values: np.ndarray, crowds: tuple[int, ...]) -> dict:
        ids = values + 1  # 0 is their void
        bgr = np.stack([ids // 256**2 % 256, ids // 256 % 256, ids % 256], axis=2)
        cv2.imwrite(str(tmp_path / name), bgr)
        rows = [
            dict(
                id=int(i),
                category_id=int(i - 1) % 1000,
                iscrowd=int(i - 1 in crowds),
                area=int((ids == i).sum()),
            )
            for i in np.unique(ids)
            if i
        ]
        return dict(image_id=name, file_name=name, segments_info=rows)

    rng, classes, stuff = np.random.default_rng(0), 6, 2
    pairs, counts = [], np.zeros((classes, 4))
    for i in range(12):
        truth = segments(rng, classes, stuff)
        found = np.roll(truth, (2, 3), axis=(0, 1))
        noise = segments(rng, classes, stuff)
        found[10:25] = np.where(noise[10:25] >= 0, noise[10:25], found[10:25])
        things = [x for x in np.unique(truth) if x >= 1000]
        crowds = tuple(things[:1])
        pairs.append((write(f'{i}t.png', truth, crowds), write(f'{i}f.png', found, ())))
        counts += count_segments(found, truth, crowds, classes)
    sums = panoptic_utils.pq_compute_single_core(
        0, pairs, str(tmp_path), str(tmp_path), {c: {} for c in range(classes)}
    )
    expected = [[sums[c].iou, sums[c].tp, sums[c].fp, sums[c].fn] for c in range(classes)]
    assert counts == pytest.approx(np.array(expected, dtype=float))
    assert (counts[:, 1:].sum(0) > 5).all()
    overlap, hit, wrong, missed = counts.T
    assert qualities(counts)[:, 0] == pytest.approx(overlap / (hit + wrong / 2 + missed / 2))
    assert np.isnan(qualities(np.zeros((1, 4)))).all()


def losses(folder: Path) -> list[float]:
    lines = [json.loads(x) for p in sorted(folder.rglob('scalars.json')) for x in p.open()]
    return [x['loss'] for x in lines if 'loss' in x]


@pytest.mark.slow
def test_a_resumed_run_anneals_as_one_that_was_not_stopped(tmp_path):
    """Queries are spared at random; losses are equal to the last bit all the same."""
    options = small_run(tmp_path / 'scenes', 6)
    options = {k: v for k, v in options.items() if not k.endswith('.channels')}
    annealing = 'model.decode_head.transformer.annealing'
    options |= {f'{annealing}.starts': [0.0] * 4, f'{annealing}.ends': [1.0] * 4}
    options |= {'model.backbone.num_query_blocks': 4}
    given = [f'{k}={v}'.replace(' ', '') for k, v in options.items()]
    common = ('eomt_internvit', '--arch', 'tiny', '--cfg-options', *given)
    done = tool('train', '--work-dir', tmp_path / 'a', *common)
    assert done.returncode == 0, done.stderr
    done = tool(
        'train', '--work-dir', tmp_path / 'b', '--resume', tmp_path / 'a' / 'iter_4', *common
    )
    assert done.returncode == 0, done.stderr
    whole, rest = losses(tmp_path / 'a'), losses(tmp_path / 'b')
    assert len(whole) == 6
    assert rest[-2:] == whole[-2:]


@pytest.mark.slow
def test_heads_beside_each_other():
    from mmdet_seg.engine import mask_benchmark

    names = ('linear_internvit', 'upernet_internvit')
    rows = mask_benchmark.run(names, 'tiny', 'scenes', 56, 1, lambda _: None)
    peers = (mask_benchmark.LINEAR, mask_benchmark.UPERNET)
    assert [row.config for row in rows] == [peers[0], names[0], peers[1], names[1]]
    assert [row.peer for row in rows] == [None, peers[0], None, peers[1]]
    assert [row.ratio for row in rows][::2] == [None, None]
    assert all(row.ratio > 0 for row in rows[1::2])
    # A 1x1 convolution; the published probe has a batch norm of the encoder's 32 channels too.
    assert rows[0].head + 2 * 32 == rows[1].head
    assert rows[1].total - rows[1].head == rows[3].total - rows[3].head  # one encoder
    assert len(mask_benchmark.table(rows).splitlines()) == 2 + len(rows)
