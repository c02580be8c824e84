"""Weights of 8 bits: what torchao computes is what the rounded weights give, and it is told."""

import builtins
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.layers import FusedLinear
from mmdet_seg.backbones.quantization import check_device, quantize, tensor_bytes
from mmdet_seg.datasets.scenes import make_scene
from mmdet_seg.engine.evaluation import evaluate
from mmdet_seg.engine.inference import dataset_meta, infer, what_changes
from mmdet_seg.engine.quantized_model import quantize_model
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.probes.feature_build import build_store
from mmdet_seg.probes.frozen_encoder import open_encoder
from mmdet_seg.probes.quantized_encoder import quantize_encoder
from mmdet_seg.registry import MODELS
from tests.small_runs import scene_options
from tests.test_probes.stored_views import VIEWS, NoiseViews

pytest.importorskip('torchao')


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Each row to 256 levels, symmetric: what int8 weights mean."""
    scale = weight.float().abs().amax(1, keepdim=True) / 127.5
    return (weight.float() / scale).round().clamp(-128, 127) * scale


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_int8_is_the_encoder_with_rounded_weights(dtype):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 56, 84)
    encoder = InternViT('small', frozen=True, dtype=dtype)
    by_hand = InternViT('small', frozen=True, dtype='fp32')
    by_hand.load_state_dict({k: v.float() for k, v in encoder.state_dict().items()})
    plain = encoder.forward_features(images)
    for module in by_hand.blocks.modules():
        if isinstance(module, FusedLinear):
            module.weight.data = rounded(module.weight)
    before = tensor_bytes(encoder)
    report = quantize_model(encoder, 'int8')
    expected, found = by_hand.forward_features(images), encoder.forward_features(images)
    tolerance = 1e-3 if dtype == 'fp32' else 0.02  # a weight on an edge rounds either way
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.equal(found, plain)
    assert report.bytes_before == before
    assert report.bytes_after == tensor_bytes(encoder) < (0.65 if dtype == 'bf16' else 0.4) * before
    assert report.num_layers == 4 * encoder.arch.depth
    with pytest.raises(ValueError, match='quantised already'):
        quantize_model(encoder, 'int8')


def test_the_stated_change_is_the_change():
    torch.manual_seed(0)
    encoder = InternViT('small', frozen=True)
    images = torch.randn(2, 3, 56, 56)

    def features():
        return {5: encoder.forward_features(images)}

    before = features()[5]
    report = quantize(encoder, encoder.blocks, 'int8', features, 'noise')
    after = features()[5]
    rms = ((after - before).square().mean() / before.square().mean()).sqrt().item()
    assert report.errors[5]['rms'] == pytest.approx(rms, rel=1e-3)
    assert 0.0005 < rms < 0.05
    assert f'{100 * rms:.2f} %' in report.text()
    assert 'noise' in report.text()


@pytest.mark.parametrize('source', ['random:tiny', 'timm:random:vit_tiny_patch16_224'])
def test_any_encoder_of_a_probe(source, tmp_path):
    if source.startswith('timm'):
        pytest.importorskip('timm')
    encoder, other = open_encoder(source), open_encoder(source)
    report = quantize_encoder(encoder, 'int8')
    assert encoder.quantization == encoder.describe()['quantization'] == 'int8'
    assert encoder.identity != other.identity
    assert encoder.num_parameters == other.num_parameters
    assert encoder.dtype == other.dtype == torch.bfloat16
    P, last = encoder.patch_size, encoder.depth - 1
    images = torch.randn(1, 3, 3 * P, 4 * P)
    a, b = encoder.features(images, [last])[last], other.features(images, [last])[last]
    assert a.patches.dtype == torch.bfloat16
    assert 0 < (a.patches - b.patches).float().square().mean().sqrt() < 0.05
    assert report.bytes_after < report.bytes_before
    weights = encoder.attention(images, last)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=2e-2)


def test_stored_features_of_both_do_not_mix(tmp_path):
    encoder = open_encoder('random:tiny')
    first = build_store(encoder, NoiseViews(2), VIEWS, [3], tmp_path)
    quantize_encoder(encoder, 'int8')
    second = build_store(encoder, NoiseViews(2), VIEWS, [3], tmp_path)
    assert first.key != second.key


def test_objects_say_what_changes():
    """Scores are compared by rank; objects count from the least score on."""

    def found(*scores):
        return BaseDataElement(pred_instances=InstanceData(scores=torch.tensor(scores)))

    said = what_changes(found(0.2, 0.9, 0.5), found(0.93, 0.25), 0.3)
    assert said == '1 objects instead of 2, scores change by up to 25.00 points'
    assert 'by up to 0.00 points' in what_changes(found(), found(), 0.3)
    a, b = (
        BaseDataElement(pred_panoptic_seg=PixelData(sem_seg=torch.tensor([[[1, 2], [3, x]]])))
        for x in (4, 1004)
    )
    assert what_changes(a, b, 0.3) == '25.00 % of the pixels change segment'


def test_a_segmentor_says_what_changes(tmp_path, capsys):
    options = scene_options(tmp_path / 'scenes')
    cfg = load_recipe('linear_internvit', arch='small', options=options)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    meta = {'dataset_meta': dict(dataset_meta(cfg))}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'a.pth')
    Image.fromarray(make_scene(3, (96, 128)).image).save(tmp_path / 'a.png')
    found = {}
    for how in (None, 'int8'):
        where = tmp_path / str(how)
        arguments = ('linear_internvit', tmp_path / 'a.pth', [str(tmp_path / 'a.png')], where)
        assert infer(*map(_text, arguments), options={**options}, quantize=how) == 0
        found[how] = [p.name for p in Path(where).rglob('*.png')]
    assert found[None] == found['int8'] != []
    said = capsys.readouterr().err
    assert 'int8: 24 linear layers' in said
    assert '% of the pixels change class in' in said

    frozen = {**options, 'model.backbone.frozen': True}
    checkpoint, work_dir = str(tmp_path / 'a.pth'), str(tmp_path / 'run')
    evaluate('linear_internvit', checkpoint, options=frozen, work_dir=work_dir, quantize='int8')
    said = capsys.readouterr()
    assert 'int8: 24 linear layers' in said.err
    *_, score, last = said.out.splitlines()
    parts = re.fullmatch(r'with int8; ([\d.]+) without, a change of ([+-][\d.]+)', last)
    change = float(score.removeprefix('mIoU: ')) - float(parts[1])
    assert change == pytest.approx(float(parts[2]), abs=0.011)


def _text(value):
    return value if isinstance(value, list) else str(value)


def test_what_cannot_be_is_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r'compute capability 8\.9 .* the CPU: use int8'):
        quantize_encoder(open_encoder('random:tiny'), 'fp8')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _d: (8, 0))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda _d: 'A100')
    with pytest.raises(ValueError, match=r'A100 has 8\.0: use int8'):
        check_device('fp8', 'cuda')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _d: (9, 0))
    check_device('fp8', 'cuda')
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('torchao'):
            raise ImportError(name='torchao')
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ValueError, match=r'pip install mmdet_seg\[quantize\]'):
        quantize_encoder(open_encoder('random:tiny'), 'int8')


@pytest.mark.gpu
def test_fp8_on_a_gpu_that_has_it():
    encoder = open_encoder('random:small').to('cuda')
    try:
        check_device('fp8', 'cuda')
    except ValueError as error:
        pytest.skip(str(error))
    report = quantize_encoder(encoder, 'fp8')
    assert report.bytes_after < 0.65 * report.bytes_before
    assert report.errors[5]['cosine'] > 0.99
