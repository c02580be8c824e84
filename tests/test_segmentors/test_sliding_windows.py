"""Windows in batches beside mmseg's own loop, and results at the images' own sizes."""

import pytest
import torch
from torch import nn

import mmdet_seg  # noqa: F401
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.tta import add_tta
from mmdet_seg.registry import MODELS
from mmdet_seg.segmentors import labels
from mmdet_seg.segmentors.sliding_windows import windows
from tests.golden_data import relative_error
from tests.test_segmentors.golden_models import samples


def segmentor(crop=(56, 56), stride=(36, 36), **options) -> nn.Module:
    torch.manual_seed(0)
    cfg = load_recipe('linear_internvit', arch='tiny').model
    cfg.test_cfg = dict(mode='slide', crop_size=crop, stride=stride)
    cfg.decode_head.norm_cfg = dict(type='BN')
    cfg.update(options)
    model = MODELS.build(cfg).eval()
    nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


def theirs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """mmseg's loop over windows."""
    from mmseg.models import EncoderDecoder

    metas = [dict(img_shape=x.shape[2:], ori_shape=tuple(x.shape[2:])) for _ in x]
    return EncoderDecoder.slide_inference(model, x, metas)


@torch.no_grad()
@pytest.mark.parametrize('size', [(56, 56), (70, 126), (28, 42), (28, 280), (98, 56), (14, 14)])
@pytest.mark.parametrize('batch', [None, 1, 3])
def test_logits_are_those_of_mmseg(size, batch):
    model = segmentor()
    model.test_cfg.window_batch = batch
    x = torch.randn(2, 3, *size)
    assert relative_error(model.slide_inference(x, [{}, {}]), theirs(model, x)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize('crop', [(56, 28), (28, 56)])
def test_windows_that_are_not_square(crop):
    model = segmentor(crop, (20, 20))
    x = torch.randn(1, 3, 84, 98)
    assert relative_error(model.slide_inference(x, [{}]), theirs(model, x)) < 1e-5


def test_every_pixel_is_covered_and_windows_stay_inside():
    for size in [(504, 683), (504, 2016), (505, 826), (100, 3000), (3000, 100), (2160, 3840)]:
        covered = torch.zeros(size, dtype=torch.bool)
        for top, left, bottom, right in windows(size, (504, 504), (322, 322)):
            assert 0 <= top < bottom <= size[0]
            assert 0 <= left < right <= size[1]
            covered[top:bottom, left:right] = True
        assert covered.all()


@torch.no_grad()
@pytest.mark.parametrize('mode', ['slide', 'whole'])
def test_images_of_other_sizes_in_one_batch_are_as_alone(mode):
    model = segmentor()
    model.test_cfg.mode = mode
    images = [torch.randint(0, 255, (3, h, w)) for h, w in ((60, 100), (90, 56), (112, 84))]
    sizes = [tuple(i.shape[1:]) for i in images]

    def predict(which):
        data = dict(
            inputs=[images[i] for i in which],
            data_samples=samples(None, [sizes[i] for i in which]),
        )
        return model.test_step(data)

    together = predict([0, 1, 2])
    for i in range(3):
        [alone] = predict([i])
        assert alone.pred_sem_seg.shape == sizes[i]
        assert relative_error(together[i].seg_logits.data, alone.seg_logits.data) < 1e-5


def test_windows_share_batches_across_images_under_the_bound():
    model = segmentor()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with torch.no_grad():
        model.test_cfg.window_batch = 5
        model.slide_inference(torch.randn(2, 3, 84, 84), [{}, {}])  # 4 windows each
        assert sizes == [5, 3]
        sizes.clear()
        model.test_cfg.window_batch = None
        model.slide_inference(torch.randn(2, 3, 84, 84), [{}, {}])
        assert sizes == [8]


@pytest.mark.parametrize('chunk', [1, 200, 1 << 20])
def test_labels_without_all_logits_at_full_size(chunk, monkeypatch):
    monkeypatch.setattr(labels, '_CHUNK_BYTES', chunk)
    logits = torch.randn(7, 6, 5)
    logits[3] = logits[2]  # of equal values the first class wins
    for size in ((6, 5), (13, 17), (3, 3)):
        expected = labels.upscale(logits, size, False).argmax(0, keepdim=True)
        assert torch.equal(labels.best_class(logits, size, False), expected)


@torch.no_grad()
def test_a_large_result_has_labels_only(monkeypatch):
    from mmdet_seg.segmentors import encoder_decoder

    model = segmentor()
    x = torch.randn(1, 3, 84, 98)
    [small] = model.predict(x, samples(None, [(120, 140)]))
    monkeypatch.setattr(encoder_decoder, '_LOGITS_BYTES', 1000)
    [large] = model.predict(x, samples(None, [(120, 140)]))
    assert 'seg_logits' not in large
    assert torch.equal(large.pred_sem_seg.data, small.pred_sem_seg.data)
    model.test_cfg.keep_logits = True
    [kept] = model.predict(x, samples(None, [(120, 140)]))
    assert torch.equal(kept.seg_logits.data, small.seg_logits.data)


def test_windows_can_be_trained_through():
    model = segmentor()
    model.slide_inference(torch.randn(1, 3, 84, 84), [{}]).sum().backward()
    assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('dtype', ['bf16', None])
def test_precision_of_encoder_and_heads(dtype):
    model = segmentor(encoder_dtype=dtype)
    seen = {}
    model.backbone.blocks[0].mlp.fc1.register_forward_hook(
        lambda _, args, out: seen.update(block=out.dtype)
    )
    model.backbone.blocks[1].attn.register_forward_hook(
        lambda _, args, out: seen.update(attention=out.dtype)
    )
    model.decode_head.norm.register_forward_hook(lambda _, args, out: seen.update(head=out.dtype))
    with torch.autocast('cpu', torch.bfloat16) if dtype else torch.no_grad():
        model.train()
        x, gt = torch.randn(2, 3, 56, 56), torch.zeros(2, 1, 56, 56, dtype=torch.long)
        model.loss(x, samples(gt, [(56, 56)] * 2))
    assert seen['attention'] == (torch.bfloat16 if dtype else torch.float32)
    assert seen['head'] == torch.float32


def test_precision_that_there_is_not():
    with pytest.raises(ValueError, match="encoder_dtype='int8' is not one of"):
        segmentor(encoder_dtype='int8')


@pytest.mark.parametrize('data', ['ade20k', 'scenes'])
def test_scales_and_flips_are_averaged(data, tmp_path):
    """The label is that of the mean softmax over every view, by hand."""
    import cv2
    import numpy as np
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    from mmengine.model import revert_sync_batchnorm

    cfg = load_recipe('linear_internvit', arch='tiny', data=data)
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8), (112, 84))
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    cv2.imwrite(str(tmp_path / 'b.png'), image[..., 0] % 5)
    if data == 'ade20k':
        for step in cfg.test_dataloader.dataset.pipeline:
            if 'scale' in step:
                step.scale = 84
        cfg.model.test_cfg = dict(mode='slide', crop_size=(56, 56), stride=(36, 36))
    add_tta(cfg, (0.5, 1.0, 1.5))
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    nn.init.normal_(model.module.decode_head.conv_seg.weight)
    info = dict(
        img_path=str(tmp_path / 'a.png'), seg_map_path=str(tmp_path / 'b.png'),
        label_map=None, reduce_zero_label=True, seg_fields=[],
    )  # fmt: skip
    views = Compose(cfg.test_dataloader.dataset.pipeline)(info)
    shapes = {tuple(v.shape[1:]) for v in views['inputs']}
    assert len(views['inputs']) == 6
    assert len(shapes) == 3
    assert min(min(s) for s in shapes) >= (56 if data == 'ade20k' else 14)
    with torch.no_grad():
        [merged] = model.test_step(pseudo_collate([views]))
        total = 0
        for x, sample in zip(views['inputs'], views['data_samples'], strict=True):
            one = dict(inputs=[x], data_samples=[sample])
            total = total + model.module.test_step(one)[0].seg_logits.data.softmax(0)
    assert torch.equal(merged.pred_sem_seg.data[0], total.argmax(0))
    assert merged.pred_sem_seg.shape == (84, 112)
