"""An exported file answers like the model, at any size, without this package."""

import json

import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

import mmdet_seg  # noqa: F401  (before mmseg's models)
from mmdet_seg.datasets import SceneSegDataset
from mmdet_seg.engine import pt2_export
from mmdet_seg.engine.export import export
from mmdet_seg.engine.exported_segmentor import AdaptivePool, trace
from mmdet_seg.engine.recipe import load_recipe
from tests.small_runs import tool

NARROW = {'model.decode_head.channels': 16, 'model.auxiliary_head.channels': 16}


def checkpoint(folder, name, options=None):
    """Random weights in which positions, attention and norms matter, and the model itself."""
    cfg = load_recipe(name, arch='tiny', options=options)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith(('gamma', 'running_var')):
                value.uniform_(0.5, 1.5)
            elif key.endswith('pos_embed'):
                value.normal_(std=1.0)
            elif key.endswith('running_mean'):
                value.normal_(std=0.1)
            elif key.endswith('weight') and value.ndim == 2:
                value.normal_(std=value.shape[1] ** -0.5)
    path = folder / 'model.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path, revert_sync_batchnorm(model).eval()


def logits(model, images):
    """mmseg's own: normalised here, resized to the input."""
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    with torch.no_grad():
        metas = [dict(img_shape=tuple(images.shape[2:]))] * len(images)
        return model.encode_decode((images - mean) / std, metas)


@pytest.mark.parametrize('size', [1, 2, 3, 6, (2, 5)])
def test_pooling_is_pytorchs(size):
    pool = AdaptivePool((size, size) if isinstance(size, int) else size)
    for shape in ((2, 3, 16, 11), (1, 3, 4, 7), (1, 2, 1, 2)):
        x = torch.randn(shape)
        torch.testing.assert_close(pool(x), nn.AdaptiveAvgPool2d(size)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # 40 seconds; the linear head is tested beside
def test_onnx_of_upernet_answers_at_any_size(tmp_path):
    """The whole command, then the file in onnxruntime with nothing of ours."""
    onnxruntime = pytest.importorskip('onnxruntime')
    path, model = checkpoint(tmp_path, 'upernet_internvit', NARROW)
    options = ['--arch', 'tiny', '--cfg-options', *(f'{k}={v}' for k, v in NARROW.items())]
    command = ['export', 'upernet_internvit', path, '--format', 'onnx', '--size', 70, 70]
    done = tool(*command, *options)
    assert done.returncode == 0, done.stderr
    checked = [x for x in done.stdout.splitlines() if 'relative' in x]
    assert len(checked) >= 3
    assert '16 classes' in done.stdout.splitlines()[-1]

    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts['classes']) == list(SceneSegDataset.METAINFO['classes'])
    assert len(json.loads(facts['palette'])) == 16
    assert session.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    for shape in ((1, 3, 28, 42), (3, 3, 126, 98), (1, 3, 56, 56)):
        images = torch.randint(0, 256, shape).float()
        (ours,) = session.run(None, {'images': images.numpy()})
        theirs = logits(model, images).numpy()
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()

    again = tool(*command, *options)
    assert again.returncode == 2
    assert 'model.onnx is there already: --force replaces it' in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.slow  # two more exports; UperNet's in this file covers the path
@pytest.mark.parametrize(
    ('form', 'options'),
    [
        ('torch_export', {'model.backbone.window_size': 3}),
        ('torch_export', {'model.encoder_dtype': 'bf16'}),
        ('onnx', {'model.backbone.frozen': True}),
    ],
)
def test_linear_head_windowed_and_in_bf16(form, options, tmp_path, capsys):
    path, model = checkpoint(tmp_path, 'linear_internvit', options)
    status = export(
        'linear_internvit', str(path), form, arch='tiny', size=(84, 70), options=options
    )
    said = capsys.readouterr().out
    assert status == 0, said
    assert ('bfloat16 is exported in fp32' in said) == ('window' not in str(options))
    if form == 'onnx':
        assert [p.name for p in tmp_path.iterdir() if p != path] == ['model.onnx']
        return
    extra = {pt2_export.METADATA: ''}
    program = torch.export.load(tmp_path / 'model.pt2', extra_files=extra).module()
    facts = json.loads(extra[pt2_export.METADATA])
    assert facts['classes'] == list(SceneSegDataset.METAINFO['classes'])
    assert facts['size_multiple'] == 14
    model.encoder_dtype = None
    for shape in ((2, 3, 56, 84), (1, 3, 98, 56)):
        images = torch.randint(0, 256, shape).float()
        expected = logits(model, images)
        assert (program(images) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow  # a minute
def test_onnx_of_an_adapter_where_sides_are_no_multiple_of_its_coarsest_stride(tmp_path, capsys):
    options = {k: v for k, v in NARROW.items() if k.startswith('model.') and 'size' not in k}
    path, _ = checkpoint(tmp_path, 'upernet_adapter_internvit', options)
    status = export(
        'upernet_adapter_internvit', str(path), 'onnx', arch='tiny', size=(112, 80), options=options
    )
    said = capsys.readouterr().out
    assert status == 0, said
    assert '1 x 3 x 112 x 80' in said


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, capsys):
    path, _ = checkpoint(tmp_path, 'linear_internvit')
    original = pt2_export.open_file

    def off_by_a_percent(file):
        run = original(file)
        return lambda images: 1.01 * run(images)

    monkeypatch.setattr(pt2_export, 'open_file', off_by_a_percent)
    assert export('linear_internvit', str(path), 'torch_export', arch='tiny', size=(56, 56)) == 1
    assert 'more than 0.001 is an error' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, monkeypatch):
    path, model = checkpoint(tmp_path, 'linear_internvit')

    def depends_on_values(self, x):
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(type(model.decode_head), 'forward', depends_on_values)
    with pytest.raises(ValueError, match='as torch_export: this model cannot be exported'):
        trace(model, 14, 2, 'x.py as torch_export')
    for args, message in (
        (('nowhere.pth',), 'no such checkpoint'),
        ((path, '--out', tmp_path / 'x.onnx'), 'the file has to end in .pt2'),
    ):
        done = tool('export', 'linear_internvit', *args, '--format', 'torch_export')
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr
