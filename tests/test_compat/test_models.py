"""Models of mmdet and mmseg, from the configs they ship, take a step and predict on the CPU.

Shrunk to an eighth of the width and small images. Which operators a model reaches is beside it.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from mmdet_seg import compat

compat.install()

SIZE = 128
THIN = 8  # base_channels of the ResNets; 64 as published


@pytest.fixture(autouse=True)
def _scope():
    """Leave the registry's current scope as it was."""
    with DefaultScope.overwrite_default_scope(None):
        yield


def each_part(config: object, action: Callable[[dict], None]) -> None:
    """Call ``action`` on every dict of a config."""
    if isinstance(config, dict):
        action(config)
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            each_part(value, action)


def shrink(part: dict) -> None:
    """Start from random weights, with few proposals and no threshold on scores."""
    for key in ('pretrained', 'batch_augments'):
        if part.get(key):
            part[key] = None
    if isinstance(part.get('init_cfg'), dict) and part['init_cfg'].get('type') == 'Pretrained':
        part['init_cfg'] = None
    most = {
        'score_thr': 0.0,
        'frozen_stages': -1,
        'nms_pre': 100,
        'max_per_img': 20,
        'conv_out_channels': 32,
        'fc_out_channels': 32,
        'deform_fc_channels': 32,
        'num_points': 64,
    }
    for key, value in most.items():
        if isinstance(part.get(key), int | float):
            part[key] = min(part[key], value)
    if part.get('type') == 'SyncBN':
        part['type'] = 'BN'
    if part.get('type') in ('ResNet', 'ResNetV1c'):
        part['base_channels'] = THIN
        part['stem_channels'] = THIN


def narrow(model: ConfigDict) -> None:
    """Fit what comes after the backbone to its width."""
    for name in ('neck',) if 'neck' in model else ('decode_head', 'auxiliary_head'):
        part = model.get(name)
        if part and isinstance(part.in_channels, int):
            part.in_channels = part.in_channels * THIN // 64
        elif part:
            part.in_channels = [channels * THIN // 64 for channels in part.in_channels]


def some_boxes() -> InstanceData:
    """Three objects with boxes and masks."""
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[10, 12, 70, 80], [30, 40, 100, 110], [60, 8, 120, 60]])
    masks = np.zeros((3, SIZE, SIZE), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return InstanceData(
        bboxes=boxes.float(), labels=torch.arange(3), masks=BitmapMasks(masks, SIZE, SIZE)
    )


def some_batch(sample: type, count: int) -> dict[str, list]:
    """Random images with what is to be found in them."""
    torch.manual_seed(0)
    shape = {f'{kind}_shape': (SIZE, SIZE) for kind in ('ori', 'img', 'pad', 'batch_input')}
    samples = []
    for index in range(count):
        meta = {**shape, 'img_id': index, 'scale_factor': (1.0, 1.0), 'flip': False}
        made = sample(metainfo=meta)
        if sample.__name__ == 'DetDataSample':
            made.gt_instances = some_boxes()
            made.ignored_instances = InstanceData(
                bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
            )
        else:
            made.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, SIZE, SIZE)))
        samples.append(made)
    images = [torch.randint(0, 255, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(count)]
    return {'inputs': images, 'data_samples': samples}


def step(model: torch.nn.Module, batch: dict[str, list]) -> None:
    """One optimisation step; the loss must reach the first layer of the backbone."""
    stem = next(model.backbone.parameters())
    before = stem.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model.train().train_step(batch, OptimWrapper(optimizer))
    assert losses['loss'].isfinite()
    assert (stem != before).any()
    assert all(tensor.isfinite().all() for tensor in model.parameters())


DETECTORS = {
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': 'nms, roi_align',
    'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco': 'softnms',
    'retinanet/retinanet_r50_fpn_1x_coco': 'sigmoid_focal_loss',
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco': 'deform_conv2d',
    'dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco': 'modulated_deform_conv2d',
    'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco': 'deform_roi_pool',
    'carafe/faster-rcnn_r50_fpn-carafe_1x_coco': 'carafe',
    'guided_anchoring/ga-retinanet_r50_fpn_1x_coco': 'masked_conv2d, deform_conv2d',
}


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules

    register_all_modules()
    config = get_config(f'mmdet::{name}.py').model
    each_part(config, shrink)
    narrow(config)
    model = MODELS.build(config)
    model.init_weights()
    step(model, some_batch(DetDataSample, 2))
    with torch.no_grad():  # one image: mmcv's masked convolution takes no more
        (found,) = model.eval().test_step(some_batch(DetDataSample, 1))
    found = found.pred_instances
    assert 0 < len(found) <= 100
    assert found.scores.isfinite().all()
    assert (found.scores.diff() <= 0).all()


SEGMENTORS = {
    'upernet/upernet_r50_4xb2-40k_cityscapes-512x1024': 'none',
    'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024': 'point_sample',
    'psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024': 'psamask',
    'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512': 'mmdet, point_sample, attention',
}


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name):
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = get_config(f'mmseg::{name}.py').model
    each_part(config, shrink)
    narrow(config)
    config.data_preprocessor.update(size=(SIZE, SIZE), size_divisor=None)
    config.test_cfg.mode = 'whole'
    model = MODELS.build(config)
    model.init_weights()
    step(model, some_batch(SegDataSample, 2))
    with torch.no_grad():
        results = model.eval().test_step(some_batch(SegDataSample, 2))
    for result in results:
        assert result.pred_sem_seg.data.shape == (1, SIZE, SIZE)
        assert result.seg_logits.data.isfinite().all()
