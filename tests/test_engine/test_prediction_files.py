"""What is drawn and written for instances and panoptic segments."""

import json
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from pycocotools.coco import COCO

from mmdet_seg.engine.prediction_files import InstanceFiles, SegmentFiles, files_for
from mmdet_seg.engine.prediction_panels import OFFSET, as_arrays, draw_instances, draw_segments

CLASSES = ('cat', 'dog')
PALETTE = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
IMAGE = np.full((60, 80, 3), 100, np.uint8)


def instances() -> InstanceData:
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 30:50, 20:40] = True
    masks[1, 40:50, 60:70] = True
    boxes = torch.tensor([[20.0, 30, 40, 50], [60, 40, 70, 50]])
    return InstanceData(
        bboxes=boxes, labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.2]), masks=masks
    )


def test_only_what_is_likely_is_drawn():
    found = as_arrays(instances())
    picture = draw_instances(IMAGE, found, CLASSES, PALETTE)
    assert (picture[40, 30] == (50, 50, 177)).all()  # inside the mask, away from box and text
    assert (picture[40, 20] == PALETTE[1]).all()  # the box
    assert (picture[36:, 55:] == 100).all()  # 0.2 is less than 0.3
    assert (draw_instances(IMAGE, found, CLASSES, PALETTE, 0.1)[45, 60] == PALETTE[0]).all()


def test_instances_in_cocos_layout(tmp_path):
    sample = DetDataSample(pred_instances=instances())
    files = files_for(sample, tmp_path, CLASSES, PALETTE, 0.1)
    assert isinstance(files, InstanceFiles)
    files.add('a', Path('x/a.jpg'), IMAGE, sample)
    files.close()
    read = COCO(tmp_path / 'predictions.json')
    first, second = read.loadAnns(read.getAnnIds())
    assert (first['bbox'], first['area'], first['score']) == ([20, 30, 20, 20], 400, 0.9)
    assert read.loadCats(first['category_id'])[0]['name'] == 'dog'
    assert (read.annToMask(second) == instances().masks[1].numpy()).all()
    assert read.loadImgs(first['image_id'])[0]['file_name'] == 'x/a.jpg'
    assert (tmp_path / 'overlays' / 'a.png').is_file()


def test_panoptic_segments_in_cocos_layout(tmp_path):
    segments = torch.full((1, 60, 80), 2)  # void: there are two classes
    segments[0, :20] = 0
    segments[0, 30:40, 10:20] = 1 + OFFSET
    segments[0, 30:40, 40:60] = 1 + 2 * OFFSET
    sample = DetDataSample(
        pred_panoptic_seg=PixelData(sem_seg=segments), pred_instances=instances()
    )
    files = files_for(sample, tmp_path, CLASSES, PALETTE, 0.3)
    assert isinstance(files, SegmentFiles)
    files.add('a', Path('a.jpg'), IMAGE, sample)
    files.close()
    (entry,) = json.loads((tmp_path / 'panoptic.json').read_text())['annotations']
    pixels = np.asarray(Image.open(tmp_path / 'panoptic' / entry['file_name'])).astype(int)
    ids = pixels @ (1, 256, 256**2)
    areas = {s['id']: (s['category_id'], s['area']) for s in entry['segments_info']}
    assert areas == {1: (1, 1600), 2: (2, 100), 3: (2, 200)}
    for number, (_, area) in areas.items():
        assert (ids == number).sum() == area
    assert (ids == 0).sum() == 60 * 80 - 1900

    picture = draw_segments(IMAGE, segments[0].numpy(), PALETTE)
    assert (picture[5, 5] == (193, 40, 40)).all()
    assert (picture[35, 10] == 255).all()  # a border
    assert (picture[55, 5] == 100).all()  # void
