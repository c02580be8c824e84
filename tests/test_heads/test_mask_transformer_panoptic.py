"""Panoptic segments and instances of the built-in scenes through mmdet's MaskFormer."""

import json

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, METRICS, init_default_scope
from PIL import Image

import mmdet_seg  # noqa: F401
from mmdet_seg.datasets.scene_classes import IDS
from mmdet_seg.datasets.scenes_files import prepare_scenes
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS
from tests.small_runs import SCENES


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    folder = prepare_scenes(root, **SCENES, seed=0, num_processes=1, progress=False)
    cfg = load_recipe('eomt_internvit_panoptic', arch='tiny', data='scenes')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(folder)
    init_default_scope(cfg.default_scope)
    return cfg


def test_truth_is_things_then_stuff(cfg):
    data = DATASETS.build(cfg.val_dataloader.dataset)
    classes = data.metainfo['classes']
    assert len(classes) == cfg.num_things_classes + cfg.num_stuff_classes == len(IDS)
    sample = data[0]['data_samples']
    png = np.array(Image.open(data.get_data_info(0)['seg_map_path']))
    labels = sample.gt_sem_seg.sem_seg[0].numpy()
    for label, name in enumerate(classes):
        assert np.array_equal(labels == label, png == IDS[name])
    assert np.array_equal(labels == 255, png == 0)
    for mask, label in zip(
        sample.gt_instances.masks.masks, sample.gt_instances.labels, strict=True
    ):
        assert label < cfg.num_things_classes
        assert (labels[mask.astype(bool)] == int(label)).all()


def test_one_step_one_prediction_and_its_quality(cfg):
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    head = model.panoptic_head
    assert head.in_stride == model.backbone.patch_size
    train = DATASETS.build(cfg.train_dataloader.dataset)
    head.transformer.progress = 0.3
    data = model.data_preprocessor(pseudo_collate([train[0], train[1]]), True)
    losses = model.train().loss(data['inputs'], data['data_samples'])
    assert len(losses) == 3 * (model.backbone.num_query_blocks + 1)
    sum(losses.values()).sum().backward()
    for name, param in model.named_parameters():
        assert param.grad is not None, name

    held_out = DATASETS.build(cfg.val_dataloader.dataset)
    cfg.model.test_cfg.update(object_mask_thr=0.0, iou_thr=0.0)
    model.panoptic_fusion_head.test_cfg.update(object_mask_thr=0.0, iou_thr=0.0)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = held_out.metainfo
    for item in held_out:
        batch = pseudo_collate([item])
        (sample,) = model.eval().val_step(batch)
        segments = sample.pred_panoptic_seg.sem_seg
        assert segments.shape[1:] == sample.pred_instances.masks.shape[1:] == sample.ori_shape
        metric.process(batch, [sample.to_dict()])
    assert 0 <= metric.compute_metrics(metric.results)['PQ'] < 20  # nothing is learnt yet
    assert metric.table.keys() == set(held_out.metainfo['classes'])


def test_truth_as_prediction_is_perfect(cfg):
    held_out = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = held_out.metainfo
    things = cfg.num_things_classes
    for item in held_out:
        sample = item['data_samples'].to_dict()
        labels = sample['gt_sem_seg']['sem_seg'].long()
        found = torch.where((labels >= things) & (labels != 255), labels, cfg.num_classes)
        instances = sample['gt_instances']
        for number, (mask, label) in enumerate(
            zip(instances['masks'].masks, instances['labels'], strict=True), start=1
        ):
            found[0][torch.from_numpy(mask.astype(bool))] = int(label) + 1000 * number
        metric.process(None, [{**sample, 'pred_panoptic_seg': {'sem_seg': found}}])
    metrics = metric.compute_metrics(metric.results)
    assert metrics['PQ'] == metrics['PQ_things'] == metrics['PQ_stuff'] == 100


def test_coco_panoptic_files(tmp_path):
    """COCO's layout, a crowd among the segments; truth as prediction is perfect again."""
    from mmdet.datasets import CocoPanopticDataset

    cfg = load_recipe('eomt_internvit_panoptic', arch='tiny', data='coco')
    init_default_scope(cfg.default_scope)
    dataset = cfg.val_dataloader.dataset
    H, W = 60, 90
    ids = np.zeros((H, W), np.int64)  # 0 is void
    ids[:30] = 70_000  # sky, stuff
    ids[30:, :40] = 301  # two persons and a crowd of them
    ids[30:, 40:60] = 302
    ids[45:, 60:80] = 303
    rows = [
        dict(id=70_000, category_id=120, iscrowd=0),
        dict(id=301, category_id=1, iscrowd=0),
        dict(id=302, category_id=1, iscrowd=0),
        dict(id=303, category_id=1, iscrowd=1),
    ]
    for row in rows:
        ys, xs = np.nonzero(ids == row['id'])
        row['area'] = len(ys)
        x, y = int(xs.min()), int(ys.min())
        row['bbox'] = [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
    annotation = dict(image_id=7, file_name='7.png', segments_info=rows)
    names = CocoPanopticDataset.METAINFO['classes']
    content = dict(
        images=[dict(id=7, file_name='7.jpg', height=H, width=W)],
        annotations=[annotation],
        categories=[
            dict(id=i, name=n, isthing=int(i <= 80), supercategory='x')
            for i, n in enumerate(names, start=1)
        ],
    )
    for split in ('val2017', 'annotations/panoptic_val2017'):
        (tmp_path / split).mkdir(parents=True)
    (tmp_path / 'annotations' / 'panoptic_val2017.json').write_text(json.dumps(content))
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / 'val2017' / '7.jpg')
    color = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=2).astype(np.uint8)
    Image.fromarray(color).save(tmp_path / 'annotations' / 'panoptic_val2017' / '7.png')
    dataset.data_root = str(tmp_path)

    items = DATASETS.build(dataset)
    classes = items.metainfo['classes']
    assert len(classes) == cfg.num_classes == cfg.num_things_classes + cfg.num_stuff_classes
    item = items[0]
    sample = item['data_samples'].to_dict()
    assert item['inputs'].shape[1:] == (420, 630)  # the truth keeps its size
    labels = sample['gt_sem_seg']['sem_seg']
    assert labels.shape[1:] == (H, W)
    masks = sample['gt_instances']['masks'].masks
    assert sorted(m.sum() for m in masks) == [20 * 30, 40 * 30]
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = items.metainfo
    sky = items.cat2label[120]
    found = torch.full((1, H, W), cfg.num_classes)
    found[0, :30] = sky
    for number, mask in enumerate(masks, start=1):
        found[0][torch.from_numpy(mask.astype(bool))] = 1000 * number
    found[0, 45:, 60:80] = 9000  # within the crowd: neither right nor wrong
    metric.process(None, [{**sample, 'pred_panoptic_seg': {'sem_seg': found}}])
    assert metric.compute_metrics(metric.results)['PQ'] == 100
    found[0, 45:, 60:80] = 9001  # of another class it is wrong
    metric.process(None, [{**sample, 'pred_panoptic_seg': {'sem_seg': found}}])
    assert metric.compute_metrics(metric.results[-1:])['PQ'] == pytest.approx(200 / 3, abs=0.01)
