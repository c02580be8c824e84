"""Every config parses, builds with the tiny encoder, takes a training step and predicts."""

from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmdet_seg.config_path import CONFIG_ROOT, leaves, resolve_config
from mmdet_seg.datasets.scenes_files import prepare_scenes
from mmdet_seg.engine.recipe import load_recipe
from tests.data_layouts import LAYOUTS, SPLITS, write_layout
from tests.small_runs import SCENES

LEAVES = [p.relative_to(CONFIG_ROOT).as_posix() for p in leaves()]
# The adapter reads every data set in the same way, through slow convolutions.
FEW = {
    'upernet_adapter': ('scenes', 'ade20k'),
    'mask2former': ('scenes', 'coco_stuff164k'),
    'eomt_internvit_panoptic': (),  # tests/test_heads/test_mask_transformer_panoptic.py
    'eomt': ('scenes', 'ade20k'),
    'mask_rcnn': (),  # detectors, below
    'cascade': (),
    'dino': (),
}
DETECTORS = [leaf for leaf in LEAVES if leaf.startswith(('mask_rcnn', 'cascade', 'dino'))]
SEGMENTATION = sorted({'scenes', 'ade20k', *LAYOUTS})
PAIRS = [
    (leaf, data)
    for leaf in LEAVES
    for data in next((v for k, v in FEW.items() if leaf.startswith(k)), SEGMENTATION)
]


@pytest.fixture(scope='module')
def roots(tmp_path_factory) -> dict[str, Path]:
    """A small stand-in for every data set, in its own layout; the scenes' is ADE20K's too."""
    folder = tmp_path_factory.mktemp('data')
    scenes = prepare_scenes(folder, **SCENES, seed=0, num_processes=1, progress=False)
    others = {name: write_layout(name, folder / name) for name in LAYOUTS}
    return {'scenes': scenes, 'ade20k': scenes, **others}


@pytest.mark.parametrize('data', sorted(LAYOUTS))
def test_data_sets_read_their_own_layout(data, roots):
    """All files are found; what is not a class is ignored, and the last class is the last."""
    cfg = load_recipe('upernet_internvit', data=data)
    init_default_scope('mmseg')
    for split, number in SPLITS.items():
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(roots[data])
        items = DATASETS.build(dataset)
        assert len(items) == number
    labels = set(items[0]['data_samples'].gt_sem_seg.data.unique().tolist())  # not cropped
    assert labels == {0, cfg.num_classes - 1, 255}


def test_there_are_configs():
    assert {'upernet_internvit.py', 'linear_internvit.py'} <= set(LEAVES)


@pytest.mark.parametrize('leaf', LEAVES)
def test_leaves_are_short_and_say_what_they_are(leaf):
    text = (CONFIG_ROOT / leaf).read_text()
    assert len(text.splitlines()) <= 35
    assert text.startswith('"""')
    assert 'python tools/train.py' in text


@pytest.mark.parametrize(('leaf', 'data'), PAIRS)
def test_one_step_and_one_prediction(leaf, data, roots):
    cfg = load_recipe(f'configs/{leaf}', arch='tiny', data=data)
    for head in ('decode_head', 'auxiliary_head'):
        if 'channels' in (cfg.model.get(head) or {}):
            cfg.model[head].channels = 16
    if 'conv_inplane' in cfg.model.backbone:
        cfg.model.backbone.conv_inplane = 8
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(roots[data])

    items = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(items.metainfo['classes']) == cfg.num_classes == model.decode_head.num_classes
    wrapper = cfg.optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=wrapper.pop('constructor'),
            paramwise_cfg=wrapper.pop('paramwise_cfg'),
            optim_wrapper_cfg=wrapper,
        )
    )
    optim_wrapper = constructor(model)
    classifier = getattr(model.decode_head, 'conv_seg', None) or model.decode_head.cls_embed
    before = classifier.weight.clone()
    losses = model.train().train_step(pseudo_collate([items[0], items[1]]), optim_wrapper)
    assert torch.isfinite(losses['loss'])
    assert not torch.equal(before, classifier.weight)

    held_out = DATASETS.build(cfg.val_dataloader.dataset)
    sample = model.eval().val_step(pseudo_collate([held_out[0]]))[0]
    assert sample.pred_sem_seg.shape == sample.ori_shape == sample.gt_sem_seg.shape
    assert sample.pred_sem_seg.data.max() < cfg.num_classes


@pytest.fixture(scope='module')
def coco(roots, tmp_path_factory) -> Path:
    """The scenes as COCO lies on disk: five of its eighty classes occur."""
    folder = tmp_path_factory.mktemp('coco')
    (folder / 'annotations').mkdir()
    for split, short in (('training', 'train'), ('validation', 'val')):
        (folder / f'{short}2017').symlink_to(roots['scenes'] / 'images' / split)
        file = roots['scenes'] / 'annotations' / f'instances_{short}.json'
        (folder / 'annotations' / f'instances_{short}2017.json').symlink_to(file)
    return folder


@pytest.mark.parametrize('data', ['scenes', 'coco'])
@pytest.mark.parametrize('leaf', DETECTORS)
def test_a_detector_takes_one_step_and_predicts(leaf, data, roots, coco):
    cfg = load_recipe(f'configs/{leaf}', arch='tiny', data=data)
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(coco if data == 'coco' else roots[data])
        dataset.pop('filter_cfg', None)
        for step in dataset.pipeline:  # as at 1024 pixels, in a hundredth of the time
            for key in ('scale', 'crop_size'):
                if step.get(key) is not None:
                    step[key] = tuple(side // 8 for side in step[key])
            if 'crop_size' in step:
                step['crop_size'] = (96, 96)
    items = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(items.metainfo['classes']) == cfg.num_classes
    wrapper = cfg.optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=wrapper.pop('constructor'),
            paramwise_cfg=wrapper.pop('paramwise_cfg'),
            optim_wrapper_cfg=wrapper,
        )
    )
    optim_wrapper = constructor(model)
    trained = {k: p.clone() for k, p in model.named_parameters() if p.requires_grad}
    losses = model.train().train_step(pseudo_collate([items[0], items[1]]), optim_wrapper)
    assert torch.isfinite(losses['loss'])
    after = dict(model.named_parameters())
    same = [k for k, p in trained.items() if torch.equal(p, after[k])]
    assert len(same) < len(trained) / 4, same
    frozen = 'frozen' in leaf
    assert frozen != any(k.startswith('backbone.') for k in trained)

    held_out = DATASETS.build(cfg.val_dataloader.dataset)
    sample = model.eval().val_step(pseudo_collate([held_out[0]]))[0]
    found = sample.pred_instances
    assert len(found.bboxes) == len(found.labels) == len(found.scores)
    assert ('masks' in found) == ('rcnn' in leaf)
    if 'masks' in found:
        assert found.masks.shape[1:] == sample.ori_shape
    assert (found.labels < cfg.num_classes).all()


def test_the_published_linear_probe():
    cfg = load_recipe('linear_internvit', arch='6b-224px', data='ade20k')
    backbone = cfg.model.backbone
    assert (backbone.arch, list(backbone.out_indices), backbone.frozen) == ('6b-224px', [44], True)
    assert backbone.img_size == 504
    assert backbone.init_cfg.checkpoint == 'OpenGVLab/InternViT-6B-224px'
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(504, 504), stride=(322, 322))
    assert cfg.optim_wrapper.optimizer.weight_decay == 0
    assert cfg.optim_wrapper.optimizer.lr == 4e-5
    assert cfg.train_cfg.max_iters == 80000


@pytest.mark.parametrize(
    ('arch', 'taps', 'channels'),
    [
        ('6b-224px', [11, 23, 35, 47], 1536),
        ('6b-448px-v2-5', [11, 22, 33, 44], 1536),
        ('300m-448px-v2-5', [5, 11, 17, 23], 512),
    ],
)
def test_the_published_upernet(arch, taps, channels):
    cfg = load_recipe('upernet_internvit', arch=arch, data='ade20k')
    assert list(cfg.model.backbone.out_indices) == taps
    assert cfg.model.backbone.drop_path_rate == (0.4 if arch.startswith('6b') else 0.2)
    assert cfg.model.decode_head.channels == cfg.model.auxiliary_head.channels == channels
    decay = cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
    assert decay == (0.95 if arch.startswith('6b') else 0.9)
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    with torch.device('meta'):
        init_default_scope('mmseg')
        model = MODELS.build(cfg.model)
    width = model.backbone.embed_dim
    assert model.decode_head.in_channels == [width] * 4
    assert model.auxiliary_head.in_channels == width
    total = sum(p.numel() for p in model.parameters()) / 1e9
    if arch == '6b-224px':
        assert 6.3 <= total < 6.4  # 6.3 B published


@pytest.mark.parametrize(
    ('leaf', 'arch', 'crop', 'stride', 'groups'),
    [
        ('upernet_adapter_internvit_frozen', '6b-224px', 512, 341, (11, 23, 35, 47)),
        ('upernet_adapter_internvit', '6b-448px-v2-5', 512, 341, (10, 21, 33, 44)),
        ('mask2former_internvit', '300m-448px-v2-5', 896, 512, (5, 11, 17, 23)),
    ],
)
@pytest.mark.parametrize('data', ['ade20k', 'coco_stuff164k'])
def test_the_published_adapters(leaf, arch, crop, stride, groups, data):
    cfg = load_recipe(leaf, arch=arch, data=data)
    encoder = cfg.model.backbone.encoder
    assert (encoder.arch, encoder.patch_size, encoder.img_size) == (arch, 16, crop)
    assert encoder.get('frozen', False) == leaf.endswith('frozen')
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(crop,) * 2, stride=(stride,) * 2)
    steps = cfg.train_dataloader.dataset.pipeline + cfg.val_dataloader.dataset.pipeline
    sizes = {k: v for step in steps for k, v in step.items() if k in ('scale', 'crop_size')}
    assert sizes == {'scale': crop, 'crop_size': (crop, crop)}
    assert {step.size_divisor for step in steps if 'size_divisor' in step} == {32}
    assert (4 * crop, crop) in [step.get('scale') for step in steps]
    optimizer, m2f = cfg.optim_wrapper.optimizer, leaf.startswith('mask2former')
    assert (optimizer.lr, optimizer.weight_decay) == (2e-5 if m2f else 4e-5, 0.05)
    assert cfg.train_cfg.max_iters == (160000 if m2f else 80000)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == (0.9 if m2f else 0.95)
    published = {'upernet_adapter_internvit_frozen': 58.1}.get(leaf)
    assert cfg.published_miou == (published if data == 'ade20k' else None)
    with torch.device('meta'):
        init_default_scope('mmseg')
        model = MODELS.build(cfg.model)
    assert tuple(last for _, last in model.backbone.groups) == groups
    head = cfg.model.decode_head
    if m2f:
        assert (head.num_queries, head.feat_channels) == (200, 1024)
        assert len(head.loss_cls.class_weight) == cfg.num_classes + 1
        assert len(model.decode_head.transformer_decoder.layers) == 9
    else:
        assert head.channels == cfg.model.auxiliary_head.channels == 1536
        assert cfg.model.auxiliary_head.in_index == 2


def test_a_config_is_found_as_people_type_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = CONFIG_ROOT / 'upernet_internvit.py'
    for typed in ('configs/upernet_internvit.py', 'upernet_internvit.py', 'upernet_internvit'):
        assert resolve_config(typed) == inside
    (tmp_path / 'upernet_internvit.py').write_text('model = dict()')
    assert resolve_config('upernet_internvit.py') == Path('upernet_internvit.py')  # ours comes last
    with pytest.raises(FileNotFoundError, match='Did you mean upernet_internvit'):
        resolve_config('configs/upernet_internvt.py')


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='7b'), "arch='7b' is not one of 6b-224px"),
        (dict(data='ade2k'), 'Did you mean ade20k'),
        (dict(options={'train_pipeline.99.x': 1}), '--cfg-options train_pipeline.99.x=1'),
    ],
)
def test_mistakes_answer_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_recipe('upernet_internvit', **kwargs)


def test_a_broken_config_is_named(tmp_path):
    for text in ('model = dict(', 'x = 1', 'model = nonsense'):
        path = tmp_path / 'broken.py'
        path.write_text(text)
        with pytest.raises(ValueError, match=r'broken\.py'):
            load_recipe(str(path))
