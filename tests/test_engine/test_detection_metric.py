"""AP in percent beside mmdet's CocoMetric, on the same detections."""

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import init_default_scope

from mmdet_seg.datasets import SceneDetDataset
from mmdet_seg.engine.detection_metric import PerClassAP
from tests.small_runs import SCENES


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> SceneDetDataset:
    init_default_scope('mmdet')
    few = SCENES | {'num_val': 8, 'size': (128, 160)}
    return SceneDetDataset(
        tmp_path_factory.mktemp('scenes'),
        'validation',
        **few,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape')),
        ],
    )


def detections(dataset: SceneDetDataset) -> list[dict]:
    """The truth, moved about, some of it missing or of another class, and made-up objects."""
    rng = np.random.default_rng(0)
    samples = []
    for item in dataset:
        sample = item['data_samples']
        truth = sample.gt_instances
        boxes, labels = truth.bboxes.tensor.numpy(), truth.labels.numpy()
        masks = truth.masks.masks.astype(bool)
        kept = rng.random(len(boxes)) > 0.2
        shift = rng.integers(-4, 5, 2)
        boxes = boxes[kept] + rng.normal(0, 2, (kept.sum(), 4)).astype(np.float32)
        labels = np.where(rng.random(kept.sum()) < 0.2, rng.integers(0, 5), labels[kept])
        false = np.array([[2, 2, 30, 40], [50, 10, 90, 80]], np.float32)
        false_masks = np.zeros((2, *masks.shape[1:]), bool)
        false_masks[:, 5:30, 5:40] = True
        samples.append(
            {
                'img_id': sample.img_id,
                'ori_shape': sample.ori_shape,
                'pred_instances': {
                    'bboxes': torch.from_numpy(np.concatenate([boxes, false])),
                    'scores': torch.from_numpy(rng.random(len(boxes) + 2).astype(np.float32)),
                    'labels': torch.from_numpy(np.concatenate([labels, [0, 1]])),
                    'masks': torch.from_numpy(
                        np.concatenate([np.roll(masks[kept], shift, (1, 2)), false_masks])
                    ),
                },
            }
        )
    return samples


def test_equals_mmdets(dataset, tmp_path):
    samples = detections(dataset)
    ours = PerClassAP(outfile_prefix=str(tmp_path / 'out' / 'results'))
    theirs = CocoMetric(
        ann_file=dataset.ann_file, metric=['bbox', 'segm'], proposal_nums=(1, 10, 100)
    )
    found = []
    for metric in (ours, theirs):
        metric.dataset_meta = dataset.metainfo
        metric.process({}, samples)
        found.append(metric.evaluate(len(samples)))
    for kind in ('bbox', 'segm'):
        for name, key in (
            ('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75'),
            ('APs', 'mAP_s'), ('APm', 'mAP_m'),
        ):  # fmt: skip
            expected = found[1][f'coco/{kind}_{key}']
            assert found[0][f'{kind}_{name}'] == pytest.approx(100 * expected, abs=0.051), key
    assert 10 < found[0]['segm_AP50'] < 90
    words = {'bbox': 'box', 'segm': 'mask'}
    for kind, word in words.items():
        rows = [row[f'{word} AP'] for row in ours.table.values()]
        there = [x for x in rows if x is not None]
        assert np.mean(there) == pytest.approx(found[0][f'{kind}_AP'], abs=0.02)
    assert (tmp_path / 'out' / 'results.segm.json').is_file()


def test_nothing_found_and_boxes_alone(dataset):
    samples = detections(dataset)
    for sample in samples:
        sample['pred_instances'] = {
            k: v[:0] for k, v in sample['pred_instances'].items() if k != 'masks'
        }
    metric = PerClassAP(figures=['AP50'])
    metric.dataset_meta = dataset.metainfo
    metric.process({}, samples)
    assert metric.evaluate(len(samples)) == {'bbox_AP50': 0.0}
    with pytest.raises(ValueError, match='there are AP, AP50'):
        PerClassAP(figures=['AP60'])
    with pytest.raises(ValueError, match='there are bbox, segm'):
        PerClassAP('box')
