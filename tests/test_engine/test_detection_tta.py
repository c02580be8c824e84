"""Views of an image merged: boxes and masks."""

import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from mmdet_seg.engine.detection_tta import DetectionTTA, add_detection_tta
from mmdet_seg.engine.recipe import load_recipe


class Model(nn.Module):
    """What mmengine asks of a model to wrap."""

    def test_step(self, data):
        raise NotImplementedError


def view(boxes: torch.Tensor, scores: list[float], flip: bool) -> DetDataSample:
    masks = torch.zeros(len(boxes), 40, 60, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1 : (x1 + x2) // 2] = True  # the left half, so that mirrors show
    if flip:
        boxes = torch.stack([60 - boxes[:, 2], boxes[:, 1], 60 - boxes[:, 0], boxes[:, 3]], 1)
        masks = masks.flip(2)
    instances = InstanceData(
        bboxes=boxes, scores=torch.tensor(scores), labels=torch.zeros(len(boxes)).long(),
        masks=masks,
    )  # fmt: skip
    meta = dict(ori_shape=(40, 60), flip=flip, flip_direction='horizontal' if flip else None)
    return DetDataSample(pred_instances=instances, metainfo=meta)


def test_every_box_keeps_its_mask():
    model = DetectionTTA(
        tta_cfg=ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=2),
        module=Model(),
    )
    first = torch.tensor([[2.0, 2, 22, 22], [30, 10, 50, 30]])
    second = torch.tensor([[30.0, 10, 50, 30], [4, 2, 24, 22], [40, 30, 58, 38]])
    plain = view(first, [0.6, 0.5], flip=False)
    mirrored = view(second, [0.8, 0.9, 0.1], flip=True)
    [merged] = model.merge_preds([[plain, mirrored]])
    found = merged.pred_instances
    assert torch.equal(found.bboxes, second[[1, 0]])  # the surer view of each, the rest is cut
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    for mask, (x1, y1, x2, y2) in zip(found.masks, second[[1, 0]].int().tolist(), strict=True):
        assert mask[y1:y2, x1 : (x1 + x2) // 2].all()
        assert mask.sum() == (y2 - y1) * (x2 - x1) // 2


def test_the_published_scale_times_ratios():
    cfg = load_recipe('mask_rcnn_internvit', data='coco')
    add_detection_tta(cfg, ratios=(0.5, 1.0))
    views = cfg.test_dataloader.dataset.pipeline[1]['transforms']
    assert [v['scale'] for v in views[0]] == [(512, 512), (1024, 1024)]
    assert [v['prob'] for v in views[1]] == [0.0, 1.0]
    assert cfg.model.tta_cfg.max_per_img == 100
