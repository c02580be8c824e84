"""Detectors whose numbers come from the encoder."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmdet_seg.detectors.semantic_branch import SemanticHead
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.necks import SimplePyramid


def built(name: str, **kwargs):
    cfg = load_recipe(name, **kwargs)
    init_default_scope('mmdet')
    with torch.device('meta'):
        return MODELS.build(cfg.model), cfg


@pytest.mark.parametrize(('arch', 'width'), [('6b-224px', 3200), ('300m-448px-v2-5', 1024)])
def test_vitdets_recipe(arch, width):
    model, cfg = built('cascade_mask_rcnn_internvit', arch=arch, data='coco')
    depth = len(model.backbone.blocks)
    windows = [block.attn.window for block in model.backbone.blocks]
    globals_ = [i for i, w in enumerate(windows) if w == 0]
    assert globals_ == [depth // 4 * n - 1 for n in (1, 2, 3, 4)]
    assert set(windows) == {0, 14}
    assert model.neck.levels[2][0].in_channels == width
    assert [s.stride for s in model.neck.output_spec()] == [4, 8, 16, 32, 64]
    assert model.rpn_head.prior_generator.strides == [(s, s) for s in (4, 8, 16, 32, 64)]
    assert len(model.rpn_head.rpn_conv) == 2
    assert [len(h.shared_convs) for h in model.roi_head.bbox_head] == [4, 4, 4]
    assert [len(h.shared_fcs) for h in model.roi_head.bbox_head] == [1, 1, 1]
    assert {h.num_classes for h in model.roi_head.bbox_head} == {80}
    assert model.roi_head.mask_head[0].num_classes == 80
    assert model.roi_head.bbox_roi_extractor[0].finest_scale == 56
    assert cfg.train_cfg.max_iters == 184375
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == (0.9 if width == 3200 else 0.8)
    jitter = cfg.train_dataloader.dataset.pipeline[2]
    assert (jitter.ratio_range, jitter.scale) == ((0.1, 2.0), (1024, 1024))


def test_the_authors_recipe_repaired():
    model, cfg = built('mask_rcnn_internvit_frozen', arch='6b-224px', data='coco')
    encoder = model.backbone
    assert encoder.pos_embed.shape == (1, 16 * 16, 3200)
    assert encoder.patch_size == 16
    assert {block.attn.window for block in encoder.blocks} == {16}
    assert encoder.out_indices == (47,)
    assert not any(p.requires_grad for p in encoder.parameters())
    pyramid, fpn = model.neck
    assert (pyramid.channels, fpn.in_channels, fpn.num_outs) == (3200, [3200] * 4, 5)
    assert cfg.train_cfg.max_iters == 12 * 7330
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (1333, 800)


def test_the_authors_windows_are_an_option():
    cfg = load_recipe('mask_rcnn_internvit_frozen', arch='6b-224px', data='coco')
    assert 'window_padding' not in cfg.model.backbone
    cfg = load_recipe(
        'mask_rcnn_internvit_frozen', arch='6b-224px', data='coco', protocol='authors'
    )
    assert cfg.model.backbone.window_padding == 'zeros'


def test_with_an_adapter():
    model, cfg = built('mask_rcnn_adapter_internvit', arch='300m-448px-v2-5', data='coco')
    windows = [block.attn.window for block in model.backbone.encoder.blocks]
    assert windows == ([14] * 5 + [0]) * 4
    assert model.neck.in_channels == [1024] * 4
    assert model.rpn_head.prior_generator.strides == [(s, s) for s in (4, 8, 16, 32, 64)]
    assert cfg.train_cfg.max_iters == 36 * 7330
    scales = cfg.train_dataloader.dataset.pipeline[2].scales
    assert (scales[0], scales[-1]) == ((1333, 480), (1333, 800))


def test_dinos_own_size():
    model, cfg = built('dino_internvit', arch='6b-224px', data='coco')
    assert (model.num_queries, model.embed_dims, len(model.encoder.layers)) == (900, 256, 6)
    assert [s.stride for s in model.neck.output_spec()] == [8, 16, 32, 64]
    assert cfg.train_cfg.max_iters == 12 * 7330


def test_simple_pyramid():
    torch.manual_seed(0)
    neck = SimplePyramid([32], [16], out_channels=8)
    outs = neck([torch.randn(2, 32, 6, 10)])
    assert [tuple(x.shape) for x in outs] == [
        (2, 8, h, w) for h, w in ((24, 40), (12, 20), (6, 10), (3, 5), (2, 3))
    ]
    for x in outs[:4]:  # the last norm is over channels
        torch.testing.assert_close(x.mean(1), torch.zeros(2, *x.shape[2:]), atol=1e-5, rtol=0)
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])
    with pytest.raises(ValueError, match='made for 1 maps and is given 2'):
        neck([torch.zeros(1, 32, 2, 2)] * 2)
    with pytest.raises(ValueError, match='not equal'):
        SimplePyramid([32, 32], [8, 16])
    two = SimplePyramid([32, 32], [16, 16], out_channels=8, factors=(2, 0.5), extra_level=False)
    assert [tuple(x.shape[2:]) for x in two([torch.zeros(1, 32, 4, 4)] * 2)] == [(8, 8), (2, 2)]
    assert [s.stride for s in two.output_spec()] == [8, 32]


@pytest.mark.parametrize(
    ('name', 'data', 'message'),
    [
        ('mask_rcnn_internvit', 'ade20k', 'takes coco, scenes'),
        ('upernet_internvit', 'coco', 'has no truth for what upernet_internvit predicts'),
        ('mask_rcnn_internvit', 'cocoo', 'Did you mean coco'),
    ],
)
def test_data_of_another_task(name, data, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(name, data=data)


def test_a_semantic_branch_sees_the_labels_below_its_cells():
    """A map that holds the classes' scores at the cells' centres has no loss."""
    head = SemanticHead(3, in_stride=4, num_classes=3)
    head.layers = nn.Identity()
    labels = torch.randint(0, 3, (2, 1, 8, 12))
    labels[0, 0, 2, 2] = 255
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(sem_seg=x)) for x in labels]
    centres = labels[:, 0, 2::4, 2::4].clone()
    centres[0, 0, 0] = 0
    scores = 100 * F.one_hot(centres, 3).permute(0, 3, 1, 2).float()
    assert head.loss([scores], samples) == 0
    wrong = scores.roll(1, dims=1)
    assert head.loss([wrong], samples) == pytest.approx(100)


def test_data_without_label_maps_have_no_semantic_branch():
    assert built('mask_rcnn_internvit')[0].semantic_head is not None
    assert built('mask_rcnn_internvit', data='coco')[0].semantic_head is None
    assert built('mask_rcnn_internvit', arch='300m-448px')[0].semantic_head is None


def test_without_mmdet_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr('mmdet_seg.engine.recipe.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'needs mmdet.*pip install mmdet_seg\[det\]'):
        load_recipe('mask_rcnn_internvit')
    load_recipe('upernet_internvit')


@pytest.mark.parametrize('training', [False, True])
def test_dino_names_an_image_with_fewer_positions_than_queries(training):
    from mmdet.testing import demo_mm_inputs

    def results(num_queries):
        cfg = load_recipe('dino_internvit', arch='tiny', options={'model.num_queries': num_queries})
        init_default_scope('mmdet')
        model = MODELS.build(cfg.model).train(training)
        model.init_weights()  # before it, DINO's level embeddings are whatever memory held
        data = demo_mm_inputs(1, [[3, 64, 64]], num_items=[1], num_classes=5)
        data = model.data_preprocessor(data, training)
        return model(**data, mode='loss' if training else 'predict')

    # 8 x 8, 4 x 4, 2 x 2 and 1 x 1
    with pytest.raises(ValueError, match='=86: an image of 64 x 64 has 85 positions'):
        results(86)
    assert results(85)
