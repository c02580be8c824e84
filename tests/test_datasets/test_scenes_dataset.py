"""The scenes as others read them: mmseg, pycocotools, mmdet."""

import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmdet_seg.datasets import SceneSegDataset
from mmdet_seg.datasets.scenes import CLASSES, PALETTE, THING_CLASSES, Scene, make_scene
from mmdet_seg.datasets.scenes_files import image_size, prepare_scenes

SIZE = (128, 160)
COUNTS = dict(num_train=6, num_val=10, seed=2, size=SIZE)
SEG_PIPELINE = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return prepare_scenes(tmp_path_factory.mktemp('scenes'), progress=False, **COUNTS)


@pytest.fixture(scope='module')
def truth() -> list[Scene]:
    return [make_scene((2, 1, index), image_size(index, SIZE)) for index in range(10)]


def check_segmentation(dataset: BaseDataset, truth: list[Scene]) -> None:
    assert len(dataset) == len(truth)
    for sample, scene in zip(dataset, truth, strict=True):
        expected = np.where(scene.mask == 0, 255, scene.mask.astype(int) - 1)
        assert np.array_equal(sample['gt_seg_map'], expected)
        assert np.abs(sample['img'][..., ::-1].astype(int) - scene.image).mean() < 8


def test_mmseg_reads_the_ade20k_layout(folder, truth) -> None:
    config = dict(
        type='mmseg.BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        reduce_zero_label=True,
        pipeline=SEG_PIPELINE,
    )
    check_segmentation(DATASETS.build(config), truth)


def test_scene_seg_dataset_is_built_from_a_config_and_finds_the_set(folder, truth) -> None:
    config = dict(
        type='mmdet_seg.SceneSegDataset',
        data_root=str(folder),
        split='validation',
        prepare=False,
        pipeline=SEG_PIPELINE,
    )
    dataset = DATASETS.build(config)
    assert dataset.metainfo['classes'] == CLASSES
    check_segmentation(dataset, truth)


def test_scene_seg_dataset_prepares_what_is_missing(tmp_path) -> None:
    counts = dict(num_train=2, num_val=1, seed=9, size=(64, 64))
    training = SceneSegDataset(tmp_path / 'new', **counts)
    validation = SceneSegDataset(tmp_path / 'new', split='validation', **counts)
    assert (len(training), len(validation)) == (2, 1)
    assert len([p for p in (tmp_path / 'new').iterdir() if p.is_dir()]) == 1


def test_scenes_that_are_missing_and_not_to_be_prepared_are_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r'^No scenes in .* set prepare=True') as caught:
        SceneSegDataset(tmp_path, prepare=False)
    assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match=r"^split='test' is not one of: training, validation\.$"):
        SceneSegDataset(tmp_path, split='test')


def test_pycocotools_reads_the_coco_layout(folder, truth) -> None:
    coco_module = pytest.importorskip('pycocotools.coco')
    mask_module = pytest.importorskip('pycocotools.mask')
    coco = coco_module.COCO(str(folder / 'annotations/instances_val.json'))
    categories = {row['id']: row['name'] for row in coco.loadCats(coco.getCatIds())}
    # numbers as in COCO's own annotation files
    assert categories == {1: 'person', 3: 'car', 6: 'bus', 9: 'boat', 21: 'cow'}
    assert len(coco.getImgIds()) == len(truth)
    seen = 0
    for image_id, scene in enumerate(truth, start=1):
        image = coco.loadImgs(image_id)[0]
        assert (folder / 'images/validation' / image['file_name']).is_file()
        assert (image['height'], image['width']) == scene.mask.shape
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            assert categories[annotation['category_id']] == CLASSES[instance.class_id - 1]
            assert np.array_equal(coco.annToMask(annotation).astype(bool), instance.mask)
            rle = coco.annToRLE(annotation)
            assert mask_module.area(rle) == annotation['area']
            assert mask_module.toBbox(rle).tolist() == annotation['bbox']
            assert annotation['iscrowd'] == instance.crowd
            seen += 1
    assert seen > 10


def test_scene_det_dataset_gives_boxes_and_masks(folder, truth) -> None:
    pytest.importorskip('mmdet')
    from mmcv.transforms import LoadImageFromFile

    pipeline = [
        dict(type=LoadImageFromFile),  # mmcv's; whether 'mmdet.' finds it depends on the scope
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    ]
    dataset = DATASETS.build(
        dict(
            type='mmdet_seg.SceneDetDataset',
            data_root=str(folder),
            split='validation',
            test_mode=True,
            pipeline=pipeline,
        )
    )
    assert dataset.metainfo['classes'] == THING_CLASSES
    assert len(dataset) == len(truth)
    for sample, scene in zip(dataset, truth, strict=True):
        names = [THING_CLASSES[label] for label in sample['gt_bboxes_labels']]
        assert names == [CLASSES[i.class_id - 1] for i in scene.instances]
        assert sample['gt_ignore_flags'].tolist() == [i.crowd for i in scene.instances]
        boxes = sample['gt_bboxes'].tensor.numpy()
        assert np.array_equal(boxes, np.array([i.box for i in scene.instances]).reshape(-1, 4))
        masks = sample['gt_masks'].masks.astype(bool)
        assert np.array_equal(
            masks, np.array([i.mask for i in scene.instances]).reshape(masks.shape)
        )


class NoMmdet:
    """An import finder for which mmdet is not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition('.')[0] == 'mmdet':
            raise ModuleNotFoundError("No module named 'mmdet'", name='mmdet')


def test_without_mmdet_one_line_names_the_extra(monkeypatch) -> None:
    for name in [n for n in sys.modules if n.partition('.')[0] == 'mmdet']:
        monkeypatch.delitem(sys.modules, name)
    for name in ('mmdet_door', 'datasets.coco_instances', 'datasets.scenes_det_dataset'):
        monkeypatch.delitem(sys.modules, f'mmdet_seg.{name}', raising=False)
    monkeypatch.setattr(sys, 'meta_path', [NoMmdet, *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        DATASETS.build(dict(type='mmdet_seg.SceneDetDataset'))
    assert str(caught.value).endswith('pip install mmdet_seg[det]')
    assert '\n' not in str(caught.value)
    assert 'mmdet' not in sys.modules
