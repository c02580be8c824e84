"""Whole segmentors beside the authors' mmseg: logits, losses, windows, flips, labels, metrics."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

import mmdet_seg  # noqa: F401
from mmdet_seg.engine import PerClassIoU
from mmdet_seg.engine.checkpoint import load_weights
from tests.golden_data import assert_close, load_case
from tests.test_segmentors.golden_models import build, load, samples, softmax

CASES = {
    'M_seg_linear': 'linear_internvit',
    'M_seg_upernet': 'upernet_internvit',
    'M_seg_adapter_upernet': 'upernet_adapter_internvit',
}


@pytest.fixture(params=CASES, scope='module')
def pair(request):
    case = load_case(request.param)
    model = build(case.meta['config'], CASES[request.param])
    return case, load(model, case)


@torch.no_grad()
def test_logits(pair):
    case, model = pair
    x = case.inputs['x']
    maps = model.extract_feat(x)
    assert_close(model.decode_head(maps), case.outputs['decode_logits'])
    if model.with_auxiliary_head:
        assert_close(model.auxiliary_head(maps), case.outputs['aux_logits'])
    metas = [dict(img_shape=x.shape[2:], ori_shape=tuple(x.shape[2:]))] * len(x)
    assert_close(model.encode_decode(x, metas), case.outputs['encode_decode'])


@torch.no_grad()
def test_losses(pair):
    case, model = pair
    x = case.inputs['x']
    losses = model.loss(x, samples(case.inputs['gt'], [tuple(x.shape[2:])] * len(x)))
    expected = {
        k.removeprefix('loss.'): v for k, v in case.outputs.items() if k.startswith('loss.')
    }
    for name, value in expected.items():
        ours = name.replace('aux.0.', 'aux.')
        assert_close(losses[ours].reshape(-1), value.reshape(-1))
    assert len(losses) == len(expected)


@torch.no_grad()
@pytest.mark.parametrize('batch', [1, 2, None])
def test_windows_softmax_flip_and_labels(pair, batch):
    case, model = pair
    model.test_cfg.window_batch = batch
    x = case.inputs['x_slide']
    size = tuple(case.meta['ori_shape'][:2])
    meta = dict(ori_shape=size, img_shape=tuple(x.shape[2:]))
    assert_close(model.slide_inference(x, [meta]), case.outputs['slide_logits'])
    [sample] = model.predict(x, samples(None, [size]))
    assert_close(softmax(sample), case.outputs['slide_softmax_rescaled'][0])
    assert torch.equal(sample.pred_sem_seg.data[0], case.outputs['simple_test'])
    [flipped] = model.predict(x, samples(None, [size], flip=True, flip_direction='horizontal'))
    assert_close(softmax(flipped), case.outputs['slide_softmax_rescaled_flip'][0])


def test_a_checkpoint_of_the_authors_loads_as_a_file(tmp_path):
    case = load_case('M_seg_upernet')
    model = build(case.meta['config'], 'upernet_internvit')
    for i, content in enumerate(
        ({'state_dict': case.state_dict, 'meta': {}}, {'module': case.state_dict}, case.state_dict)
    ):
        path = tmp_path / f'{i}.pth'
        torch.save(content, path)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(model, path)
        for name, value in model.state_dict().items():
            theirs = name.replace('neck.up', 'backbone.up')
            assert torch.equal(value, case.state_dict[theirs]), name
    torch.save({'state_dict': {**case.state_dict, 'backbone.up5.0.weight': torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r'backbone\.up5\.0\.weight'):
        load_weights(model, path)


def test_miou():
    case = load_case('M_miou')
    num_classes, ignore = case.meta['num_classes'], case.meta['ignore_index']
    metric = PerClassIoU(ignore_index=ignore, iou_metrics=['mIoU', 'mDice', 'mFscore'])
    metric.dataset_meta = dict(classes=[str(i) for i in range(num_classes)])
    for i in range(3):
        pred, label = (
            torch.from_numpy(np.array(case.inputs[f'{k}{i}'])) for k in ('pred', 'label')
        )
        hist = metric.intersect_and_union(pred, label, num_classes, ignore)
        for row, expected in zip(hist, case.outputs[f'hist{i}'], strict=True):
            assert torch.equal(row.double(), expected.double())
        sample = samples(None, [tuple(pred.shape)])[0]
        sample.pred_sem_seg = PixelData(data=pred[None])
        sample.gt_sem_seg = PixelData(data=label[None])
        metric.process({}, [sample.to_dict()])
    found = metric.compute_metrics(metric.results)
    theirs = case.meta['metrics']
    mean = lambda values: 100 * np.nanmean([np.nan if v is None else v for v in values])  # noqa: E731
    assert found['mIoU'] == pytest.approx(mean(theirs['mIoU']['IoU']), abs=0.005)
    assert found['mDice'] == pytest.approx(mean(theirs['mDice']['Dice']), abs=0.005)
    assert found['mFscore'] == pytest.approx(mean(theirs['mFscore']['Fscore']), abs=0.005)
    assert found['aAcc'] == pytest.approx(100 * theirs['mIoU']['aAcc'][0], abs=0.005)
    per_class = [None if v is None else round(100 * v, 2) for v in theirs['mIoU']['IoU']]
    assert list(metric.table.values()) == pytest.approx(per_class, abs=0.006)
