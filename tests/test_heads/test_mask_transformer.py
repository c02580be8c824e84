"""The encoder-only mask transformer beside transformers' EoMT: same weights, images and draws."""

from itertools import pairwise

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch.nn.functional import one_hot
from transformers import EomtConfig, EomtForUniversalSegmentation

from mmdet_seg.backbones import SplitInternViT
from mmdet_seg.heads import MaskTransformerHead
from mmdet_seg.heads.mask_transformer import (
    MaskTransformer,
    masking_probabilities,
    num_doublings,
    published_annealing,
)
from mmdet_seg.registry import MODELS
from tests.golden_data import assert_close

D, DEPTH, HEADS, SIDE, PATCH, Q, C = 32, 6, 4, 64, 16, 7, 5
ARCH = dict(
    embed_dim=D,
    depth=DEPTH,
    num_heads=HEADS,
    patch_size=PATCH,
    img_size=SIDE,
    qkv_bias=True,
    qk_norm=False,
    norm='layer',
)
POINTS = 96


@pytest.fixture(scope='module')
def theirs() -> EomtForUniversalSegmentation:
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=D,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        num_register_tokens=0,
        num_queries=Q,
        num_labels=C,
        train_num_points=POINTS,
        num_upscale_blocks=num_doublings(PATCH),
    )
    model = EomtForUniversalSegmentation(config)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.2 * torch.randn_like(param)
    return model


def ours_like(theirs: EomtForUniversalSegmentation, **kwargs):
    """Encoder and head with their weights."""
    init_default_scope('mmseg')
    encoder = SplitInternViT(ARCH)
    head = MaskTransformerHead(
        D, PATCH, num_classes=C, num_queries=Q, points=dict(num_points=POINTS), **kwargs
    )
    state, body, tail = theirs.state_dict(), {}, {}
    body['cls_token'] = state['embeddings.cls_token']
    positions = state['embeddings.position_embeddings.weight'][None]
    body['pos_embed'] = torch.cat([torch.zeros(1, 1, D), positions], dim=1)
    for kind in ('weight', 'bias'):
        body[f'patch_embed.proj.{kind}'] = state[f'embeddings.patch_embeddings.projection.{kind}']
        for i in range(DEPTH):
            a, b = f'blocks.{i}.', f'layers.{i}.'
            parts = [state[f'{b}attention.{n}_proj.{kind}'] for n in 'qkv']
            body[f'{a}attn.qkv.{kind}'] = torch.cat(parts)
            body[f'{a}attn.proj.{kind}'] = state[f'{b}attention.out_proj.{kind}']
            for name in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2'):
                body[f'{a}{name}.{kind}'] = state[f'{b}{name}.{kind}']
            for n in '12':
                body[f'{a}ls{n}.gamma'] = state[f'{b}layer_scale{n}.lambda1']
        tail[f'norm.{kind}'] = state[f'layernorm.{kind}']
        tail[f'cls_embed.{kind}'] = state[f'class_predictor.{kind}']
        for i in range(3):
            tail[f'mask_embed.{2 * i}.{kind}'] = state[f'mask_head.fc{i + 1}.{kind}']
    tail['query.weight'] = state['query.weight']
    for name, value in state.items():
        if name.startswith('upscale_block.block.'):
            _, _, i, part, kind = name.split('.')
            place = {'conv1': 0, 'conv2': 2, 'layernorm2d': 3}[part]
            tail[f'upscale.{i}.{place}.{kind}'] = value
    encoder.load_state_dict(body)
    head.transformer.load_state_dict(tail)
    return encoder, head


def images(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def samples(number: int = 2) -> list:
    from mmseg.structures import SegDataSample

    rng = torch.Generator().manual_seed(4)
    found = []
    for _ in range(number):
        labels = torch.randint(0, C, (1, SIDE // 8, SIDE // 8), generator=rng)
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[:, :5] = 255
        sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
        sample.gt_sem_seg = PixelData(data=labels)
        found.append(sample)
    return found


@torch.no_grad()
def test_predictions(theirs):
    encoder, head = ours_like(theirs)
    theirs.eval().attn_mask_probs.zero_()
    expected = theirs(images())
    scores, masks = head.eval()(encoder.eval()(images()))
    assert len(scores) == len(masks) == 1
    assert_close(scores[-1], expected.class_queries_logits)
    assert_close(masks[-1], expected.masks_queries_logits)


@torch.no_grad()
@pytest.mark.parametrize('probabilities', [[1.0] * 4, [1.0, 0.6, 0.3, 0.0]])
def test_masks_of_every_block_while_training(theirs, probabilities, monkeypatch):
    encoder, head = ours_like(theirs)
    theirs.train().attn_mask_probs.copy_(torch.tensor(probabilities))
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[1][:, 0, :Q] > -1))
        for layer in theirs.layers[-4:]
    ]
    torch.manual_seed(5)
    expected = theirs(images())
    for hook in hooks:
        hook.remove()
    made, make = [], head.transformer.attention_mask
    monkeypatch.setattr(
        head.transformer, 'attention_mask', lambda *a: made.append(make(*a)) or made[-1]
    )
    monkeypatch.setattr(head.transformer, 'probabilities', lambda n: probabilities)
    torch.manual_seed(5)
    scores, masks = head.train()(encoder.train()(images()))
    assert len(scores) == 5
    for found, other, probability in zip(made, seen, probabilities, strict=True):
        if probability:
            assert torch.equal(found, other)
            assert 0.2 < found.float().mean() < 0.95
        else:  # theirs spares every query, one by one
            assert found is None
            assert other.all()
    assert_close(scores[-1], expected.class_queries_logits)
    assert_close(masks[-1], expected.masks_queries_logits)


def test_loss_and_gradients(theirs, monkeypatch):
    encoder, head = ours_like(theirs)
    theirs.train().attn_mask_probs.fill_(1.0)
    theirs.zero_grad()
    truth, _ = head._seg_data_to_instance_data(samples())
    torch.manual_seed(6)
    out = theirs(
        images(),
        mask_labels=[t.masks.float() for t in truth],
        class_labels=[t.labels for t in truth],
    )
    out.loss.backward()
    monkeypatch.setattr(head.transformer, 'probabilities', lambda n: [1.0] * n)
    torch.manual_seed(6)
    losses = head.train().loss(encoder.train()(images()), samples(), None)
    assert len(losses) == 15
    total = sum(losses.values())
    assert_close(total.squeeze(), out.loss)
    total.backward()
    for found, other in (
        (head.transformer.query, theirs.query),
        (head.transformer.mask_embed[0], theirs.mask_head.fc1),
        (head.transformer.upscale[0][0], theirs.upscale_block.block[0].conv1),
        (encoder.patch_embed.proj, theirs.embeddings.patch_embeddings.projection),
        (encoder.blocks[4].mlp.fc1, theirs.layers[4].mlp.fc1),
    ):
        assert_close(found.weight.grad, other.weight.grad)


@torch.no_grad()
def test_classes_of_pixels_are_mmsegs(theirs):
    from mmseg.models.decode_heads import Mask2FormerHead

    encoder, head = ours_like(theirs)
    maps = encoder.eval()(images())
    metas = [dict(img_shape=(SIDE, SIDE))] * 2
    found = head.eval().predict(maps, metas, None)
    assert found.shape == (2, C, SIDE, SIDE)
    assert_close(found, Mask2FormerHead.predict(head, maps, metas, None))


def test_published_annealing():
    """EoMT's steps for ADE20K: 31 epochs of 1263 iterations."""
    starts, ends = published_annealing(4)
    iterations = 31 * 1263
    assert [s * iterations for s in starts] == pytest.approx([6520, 13040, 19560, 26080], rel=2e-3)
    assert [s * iterations for s in ends] == pytest.approx([13040, 19560, 26080, 32600], rel=2e-3)
    rows = [masking_probabilities(i / 600, starts, ends) for i in range(601)]
    assert rows[0] == [1.0] * 4
    assert rows[-1] == [0.0] * 4
    assert rows[150] == pytest.approx([0.5**0.9, 1.0, 1.0, 1.0])
    for before, after in pairwise(rows):
        assert all(a <= b for a, b in zip(after, before, strict=True))


def test_masks_end_before_the_training_and_outside_of_it():
    model = MaskTransformer(8, 3, 5, 16)
    assert model.train().probabilities(4) == [0.0] * 4  # nobody says how far the training is
    model.progress = 0.0
    assert model.probabilities(4) == [1.0] * 4
    assert model.eval().probabilities(4) == [0.0] * 4
    model.progress = 5 / 6
    assert model.train().probabilities(4) == pytest.approx([0.0] * 4)
    model.annealing = dict(starts=[0.0], ends=[1.0])
    with pytest.raises(ValueError, match='1 starts and 1 ends; queries pass 4 blocks'):
        model.probabilities(4)


def test_a_query_with_an_empty_mask():
    masks = torch.full((1, 5, 8, 8), -1.0)
    masks[:, 0] = 1.0
    masks[:, 1, :4] = 1.0
    kept, spared = (
        MaskTransformer(8, 3, 5, 16, unmask_empty=unmask).attention_mask(masks, (4, 4), 1.0, 1)
        for unmask in (False, True)
    )
    assert kept.shape == spared.shape == (1, 5, 5 + 1 + 16)
    assert kept[:, :, :6].all()
    assert kept[0, :, 6:].sum(1).tolist() == [16, 8, 0, 0, 0]
    assert spared[0, :, 6:].sum(1).tolist() == [16, 8, 16, 16, 16]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(frozen=True), 'eomt_internvit_frozen'),
        (dict(frozen_stages=1), 'tune partial:4'),
        (dict(num_query_blocks=5), 'one output block and 1 to 4 query blocks'),
        (dict(window_size=2), 'hold queries'),
    ],
)
def test_encoders_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SplitInternViT('tiny', **kwargs)


def test_wrong_names_answer_in_one_line():
    with pytest.raises(ValueError, match='loss_weights has masks'):
        MaskTransformerHead(D, PATCH, num_classes=C, loss_weights=dict(masks=1.0))
    with pytest.raises(ValueError, match="norm='batch'"):
        MaskTransformerHead(D, PATCH, num_classes=C, transformer=dict(norm='batch'))


@torch.no_grad()
def test_blocks_run_in_the_encoders_precision():
    """The segmentor's encoder_dtype holds for the blocks that the head runs, not for the head."""
    encoder, x = SplitInternViT('tiny'), torch.randn(1, 3, 56, 56)
    with torch.autocast('cpu', torch.bfloat16):
        (half,) = encoder(x)
    (full,) = encoder(x)
    dtypes = []
    encoder.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, y: dtypes.append(y.dtype))
    half.stages[-1](half.tokens.float(), None)
    with torch.autocast('cpu', torch.bfloat16):
        full.stages[-1](full.tokens, None)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_lora_and_partial_tuning_reach_the_queries():
    init_default_scope('mmseg')
    for kwargs in (dict(lora=dict(rank=2)), dict(num_query_blocks=2, frozen_stages=2)):
        encoder = SplitInternViT('tiny', **kwargs)
        head = MaskTransformerHead(32, 14, num_classes=3, num_queries=4)
        scores, masks = head.train()(encoder.train()(torch.randn(1, 3, 56, 56)))
        (scores[-1].sum() + masks[-1].sum()).backward()
        assert head.transformer.query.weight.grad.abs().sum() > 0
        for name, param in encoder.named_parameters():
            used = param.requires_grad and 'lora_A' not in name  # B starts at zero
            assert (param.grad is not None and bool(param.grad.abs().sum() > 0)) == used, name


def test_a_segmentor_fills_in_the_encoders_numbers():
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    cfg = ConfigDict(
        type='mmdet_seg.EncoderDecoder',
        backbone=dict(type='SplitInternViT', arch='tiny', patch_size=8),
        decode_head=dict(type='mmdet_seg.MaskTransformerHead', num_classes=3, in_stride=None),
        test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16)),
    )
    model = MODELS.build(cfg).eval()
    assert model.decode_head.in_stride == 8
    x = torch.randn(1, 3, 40, 56)
    meta = dict(ori_shape=(40, 56), img_shape=(40, 56), pad_shape=(40, 56))
    sample = model.predict(x, [SegDataSample(metainfo=meta)])[0]
    best = one_hot(sample.pred_sem_seg.data[0], 3).sum((0, 1))
    assert sample.seg_logits.data.shape == (3, 40, 56)
    assert best.sum() == 40 * 56


@pytest.mark.slow
@torch.no_grad()
def test_exported_for_any_size():
    from mmdet_seg.engine.exported_segmentor import trace

    init_default_scope('mmseg')
    torch.manual_seed(0)
    head = dict(type='mmdet_seg.MaskTransformerHead', num_classes=3, in_stride=None, num_queries=4)
    cfg = ConfigDict(
        type='mmdet_seg.EncoderDecoder',
        data_preprocessor=dict(type='mmdet_seg.SegDataPreProcessor', bgr_to_rgb=True),
        backbone=dict(type='SplitInternViT', arch='tiny'),
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(cfg).eval()
    program = trace(model, 14, 2, 'a mask transformer').module()
    for shape in ((1, 3, 28, 56), (3, 3, 70, 42)):
        x = torch.randn(shape)
        expected = model.encode_decode(x, [dict(img_shape=shape[2:])] * shape[0])
        assert_close(program(x), expected)
