"""Few-shot subsets: drawn by a seed, kept beside the run, the same again on resuming."""

import hashlib
import random

import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmdet_seg.datasets.scenes_files import prepare_scenes
from mmdet_seg.datasets.subset import apply_subset, draw_subset
from mmdet_seg.engine.recipe import load_recipe
from tests.data_layouts import SPLITS, write_layout
from tests.small_runs import SCENES

NAMES = ['c', 'a', 'd', 'b', 'e']


def config(data, root, **subset):
    cfg = load_recipe('upernet_internvit', data=data)
    cfg.merge_from_dict({f'subset.{k}': v for k, v in subset.items()})
    cfg.train_dataloader.dataset.data_root = str(root)
    return cfg


def build(cfg):
    init_default_scope('mmseg')
    return DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': []})


def test_the_published_rule():
    names = [f'ADE_train_{i:08}' for i in range(1, 20211)]
    assert [len(draw_subset(names, k, 0)) for k in (16, 8, 4, 2, 1)] == [
        1263, 2526, 5052, 10105, 20210,
    ]  # fmt: skip
    shuffled = sorted(names)
    random.Random(7).shuffle(shuffled)
    assert draw_subset(names[::-1], 16, 7) == shuffled[:1263]
    assert set(draw_subset(names, 16, 7)) <= set(draw_subset(names, 2, 7))
    assert draw_subset(names, 16, 7) != draw_subset(names, 16, 8)


@pytest.mark.parametrize('data', ['cityscapes', 'voc12', 'coco_stuff164k', 'pascal_context'])
def test_any_data_set_reads_its_list(data, tmp_path):
    root = write_layout(data, tmp_path / data)
    everything = {x['img_path'] for x in build(config(data, root))}
    assert len(everything) == SPLITS['train']
    cfg = config(data, root, fraction=2)
    apply_subset(cfg, tmp_path / 'run')
    kept = build(cfg)
    assert len(kept) == SPLITS['train'] // 2 == cfg.subset.drawn.images
    assert {x['img_path'] for x in kept} < everything
    listed = tmp_path / 'run' / 'subset_1of2_seed0.txt'
    assert cfg.subset.drawn.sha256 == hashlib.sha256(listed.read_bytes()).hexdigest()


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return prepare_scenes(tmp_path_factory.mktemp('x'), **SCENES, num_processes=1, progress=False)


def test_a_run_draws_the_same_again(scenes, tmp_path, capsys):
    cfg = config('scenes', scenes, fraction=4, seed=1)
    apply_subset(cfg, tmp_path)
    first = [x['img_path'] for x in build(cfg)]
    assert len(first) == SCENES['num_train'] // 4
    assert cfg.subset.drawn.sha256 in capsys.readouterr().err
    apply_subset(cfg, tmp_path)  # resumed from the run's own config: not a subset of the subset
    assert [x['img_path'] for x in build(cfg)] == first
    apply_subset(cfg, tmp_path / 'another')
    assert [x['img_path'] for x in build(cfg)] == first
    assert cfg.train_dataloader.dataset.ann_file.startswith(str(tmp_path / 'another'))


def test_another_list_in_the_folder_is_not_overwritten(scenes, tmp_path):
    listed = tmp_path / 'subset_1of2_seed0.txt'
    listed.write_text('a_list_of_ones_own\n')
    with pytest.raises(ValueError, match='drawn from other images'):
        apply_subset(config('scenes', scenes, fraction=2), tmp_path)
    assert listed.read_text() == 'a_list_of_ones_own\n'


def test_data_that_changed_are_noticed(tmp_path):
    root = write_layout('cityscapes', tmp_path / 'cityscapes')
    cfg = config('cityscapes', root, fraction=1)
    apply_subset(cfg, tmp_path / 'run')
    next(root.glob('leftImg8bit/train/*/*.png')).unlink()
    with pytest.raises(ValueError, match='drawn from other images than the 2 '):
        apply_subset(cfg, tmp_path / 'other')


@pytest.mark.parametrize(
    ('subset', 'message'),
    [
        (dict(fraction=0), 'subset.fraction=0 is not a whole number'),
        (dict(fraction=0.5), 'subset.fraction=0.5 is not'),
        (dict(fraction=99), 'leaves none of 8'),
        (dict(fraction=2, seed=-1), 'subset.seed=-1'),
        (dict(seed=1), 'is not as dict'),
        (dict(fraction=2, sede=1), 'is not as dict'),
    ],
)
def test_mistakes(subset, message, scenes, tmp_path):
    with pytest.raises(ValueError, match=message):
        apply_subset(config('scenes', scenes, **subset), tmp_path)


def test_no_entry_changes_nothing(scenes, tmp_path):
    cfg = config('scenes', scenes)
    apply_subset(cfg, tmp_path)
    assert 'ann_file' not in cfg.train_dataloader.dataset
    assert not list(tmp_path.iterdir())
