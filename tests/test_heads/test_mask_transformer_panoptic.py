"""Panoptic segments and instances of the built-in scenes through mmdet's MaskFormer."""

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
    assert len(losses) == 15
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
