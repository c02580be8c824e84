"""The published recipes at their true size, on the meta device, beside the authors' configs."""

import pytest
import torch
from mmengine.registry import init_default_scope

import mmdet_seg  # noqa: F401
from mmdet_seg.backbones.variants import get_arch
from mmdet_seg.config_path import CONFIG_ROOT, leaves
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS

# Recipe: trainable and all parameters, as published (M, B); frozen, taps, drop path, weight decay,
# layer decay, iterations, warm-up, mIoU. Source: OpenGVLab/InternVL `segmentation`, README and
# configs; 486,550 is counted from the shapes.
PUBLISHED = {
    'linear_internvit': (0.49e6, 5.9e9, True, [44], 0.0, 0.0, 1.0, 80000, 1500, 47.2),
    'upernet_internvit_frozen': (
        0.4e9, 6.3e9, True, [11, 23, 35, 47], 0.0, 0.05, 1.0, 80000, 1500, 54.9,
    ),
    'upernet_internvit': (
        6.3e9, 6.3e9, False, [11, 23, 35, 47], 0.4, 0.05, 0.95, 80000, 1500, 58.9,
    ),
    'linear_internvit_1of16': (5.9e9, 5.9e9, False, [47], 0.4, 0.05, 0.95, 5000, 100, 46.5),
    'linear_internvit_1of8': (5.9e9, 5.9e9, False, [47], 0.4, 0.05, 0.95, 10000, 200, 50.0),
    'linear_internvit_1of4': (5.9e9, 5.9e9, False, [47], 0.4, 0.05, 0.95, 20000, 400, 53.3),
    'linear_internvit_1of2': (5.9e9, 5.9e9, False, [47], 0.4, 0.05, 0.95, 40000, 800, 55.8),
    'linear_internvit_1of1': (5.9e9, 5.9e9, False, [47], 0.4, 0.05, 0.95, 80000, 1500, 57.2),
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_result_is_one_command(name):
    row = PUBLISHED[name]
    trainable, total, frozen, taps, drop, wd, decay, iters, warmup, miou = row
    cfg = load_recipe(name, arch='6b-224px', data='ade20k')
    backbone, wrapper = cfg.model.backbone, cfg.optim_wrapper
    assert bool(backbone.get('frozen')) is frozen
    assert list(backbone.out_indices) == taps
    assert backbone.drop_path_rate == drop
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == (4e-5, wd)
    assert tuple(wrapper.optimizer.betas) == (0.9, 0.999)
    assert wrapper.get('clip_grad') is None
    assert wrapper.paramwise_cfg.layer_decay_rate == decay
    assert cfg.train_cfg.max_iters == iters
    assert [s.end for s in cfg.param_scheduler] == [warmup + 1, iters + 1]
    assert cfg.train_dataloader.batch_size == 2  # on 8 processes
    assert cfg.published_miou == miou
    assert cfg.model.encoder_dtype == 'bf16'
    assert cfg.get('subset', {}).get('fraction', 1) == {5: 16, 10: 8, 20: 4, 40: 2}.get(
        iters // 1000, 1
    )
    model = on_meta(cfg)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    # Published figures are cut off, not rounded: 0.48 B is "0.4 B".
    if name == 'linear_internvit':
        assert found == 486_550
    else:
        assert int(found / 1e8) == round(trainable / 1e8)
    assert int(everything / 1e8) == round(total / 1e8)


def on_meta(cfg):
    init_default_scope('mmseg')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('data', ['ade20k', 'coco_stuff164k'])
@pytest.mark.parametrize(
    'arch', ['6b-448px-v1-0', '6b-448px-v1-2', '6b-448px-v1-5', '6b-448px-v2-5']
)
@pytest.mark.parametrize(
    'name', ['linear_internvit', 'upernet_internvit_frozen', 'upernet_internvit']
)
def test_the_authors_36_configs_are_options(name, arch, data):
    cfg = load_recipe(name, arch=arch, data=data, protocol='authors')
    backbone = cfg.model.backbone
    assert get_arch(backbone.arch).depth == 45
    taps = [44] if name.startswith('linear') else [11, 22, 33, 44]
    assert list(backbone.out_indices) == taps
    assert backbone.img_size == 504
    assert isinstance(cfg.published_miou, float)
    assert cfg.optim_wrapper.paramwise_cfg.decay_positions
    classes = {'ade20k': 150, 'coco_stuff164k': 171}[data]
    assert cfg.model.decode_head.num_classes == classes
    if 'auxiliary_head' in cfg.model and cfg.model.auxiliary_head:
        assert cfg.model.auxiliary_head.in_index == (1 if 'frozen' in name else 2)


def test_ours_uses_all_48_blocks_of_v1_0():
    cfg = load_recipe('upernet_internvit', arch='6b-448px-v1-0', data='ade20k')
    assert get_arch(cfg.model.backbone.arch).depth == 48
    assert list(cfg.model.backbone.out_indices) == [11, 23, 35, 47]
    assert 'decay_positions' not in cfg.optim_wrapper.paramwise_cfg


def test_the_authors_few_shot_test_resizes_plainly():
    def steps(protocol):
        cfg = load_recipe(
            'linear_internvit_1of16', arch='6b-224px', data='ade20k', protocol=protocol
        )
        kinds = [s['type'] for s in cfg.test_dataloader.dataset.pipeline]
        return [k if isinstance(k, str) else k.__name__ for k in kinds]

    assert steps('ours')[1:3] == ['ResizeShortestEdge', 'ResizeToMultiple']
    assert steps('authors')[1:3] == ['Resize', 'ResizeToMultiple']


def test_leaves_hold_fewer_lines_than_the_authors():
    # They had no other segmentors and one detector.
    theirs = [p for p in leaves() if p.stem.startswith(('linear', 'upernet_internvit'))]
    lines = {
        line.strip()
        for path in theirs
        for line in path.read_text().splitlines()
        if line.strip() and not line.lstrip().startswith('#')
    }
    assert len(theirs) < 36
    assert len(lines) <= 116, len(lines)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [(dict(protocol='theirs'), '--protocol theirs: there are ours, authors')],
)
def test_mistakes(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_recipe('upernet_internvit', **kwargs)


@pytest.mark.parametrize(
    ('data', 'arch', 'protocol'),
    [
        (None, None, 'ours'),
        ('scenes', '300m-448px-v2-5', 'ours'),
        ('ade20k', '6b-224px', 'authors'),
        ('coco_stuff164k', 'tiny', 'ours'),
    ],
)
def test_what_a_run_writes_is_the_same_config(data, arch, protocol, tmp_path):
    for name in ('upernet_internvit', 'linear_internvit_1of4'):
        cfg = load_recipe(name, arch=arch, data=data, protocol=protocol)
        cfg.dump(tmp_path / 'run.py')
        again = load_recipe(str(tmp_path / 'run.py'))
        ours, theirs = (dict(c.model.backbone) | {'type': ''} for c in (cfg, again))
        assert ours == theirs
        for key in ('subset', 'published_miou', 'crop_size'):
            assert again.get(key) == cfg.get(key), key
        assert again.train_cfg.max_iters == cfg.train_cfg.max_iters
        ends = [[s.end for s in c.param_scheduler] for c in (cfg, again)]
        assert ends[0] == ends[1]
        assert again.optim_wrapper.optimizer.lr == cfg.optim_wrapper.optimizer.lr
        steps = [c.test_dataloader.dataset.pipeline[1]['type'] for c in (cfg, again)]
        assert len({getattr(s, '__name__', s).rsplit('.', 1)[-1] for s in steps}) == 1


def test_weights_of_ones_own(tmp_path):
    cfg = load_recipe('upernet_internvit_frozen', arch='300m-448px', weights='a/b.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a/b.pth')
    assert (CONFIG_ROOT / 'upernet_internvit_frozen.py').is_file()
