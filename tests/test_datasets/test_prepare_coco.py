"""COCO's images, boxes and panoptic maps, made up small as they are published, are laid out."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmdet_seg.datasets.prepare import prepare
from mmdet_seg.datasets.prepare_layouts import LAYOUTS
from mmdet_seg.engine.recipe import load_recipe

pytest.importorskip('mmdet')
H, W = 40, 60
COUNTS = {'train2017': 3, 'val2017': 2}


def encode(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def pack(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def published(split: str, first: int) -> dict[str, dict[str, bytes]]:
    """Archives of one split: images, instances, panoptic with an archive inside."""
    from mmdet.datasets import CocoPanopticDataset

    jpegs, pngs, images, boxes, panoptic = {}, {}, [], [], []
    for i in range(first, first + COUNTS[split]):
        stem = f'{i:012}'
        jpegs[f'{split}/{stem}.jpg'] = encode(np.full((H, W, 3), 90, np.uint8), 'JPEG')
        segments = np.zeros((H, W, 3), np.uint8)
        segments[5:25, 10:40, 0] = 7  # id 7: a person; the rest, id 0, is nothing
        pngs[f'panoptic_{split}/{stem}.png'] = encode(segments, 'PNG')
        images.append(dict(id=i, file_name=f'{stem}.jpg', height=H, width=W))
        outline = [[10, 5, 40, 5, 40, 25, 10, 25]]
        boxes.append(
            dict(id=i, image_id=i, category_id=1, bbox=[10, 5, 30, 20], area=600, iscrowd=0)
            | dict(segmentation=outline)
        )
        part = dict(id=7, category_id=1, area=600, bbox=[10, 5, 30, 20], iscrowd=0)
        panoptic.append(dict(image_id=i, file_name=f'{stem}.png', segments_info=[part]))
    names = CocoPanopticDataset.METAINFO['classes']
    every = [dict(id=i + 1, name=n, isthing=int(i < 80)) for i, n in enumerate(names)]
    instances = dict(images=images, annotations=boxes, categories=every[:80])
    segments = dict(images=images, annotations=panoptic, categories=every)
    return {
        'images': jpegs,
        'instances': {f'annotations/instances_{split}.json': json.dumps(instances).encode()},
        'panoptic': {
            f'annotations/panoptic_{split}.json': json.dumps(segments).encode(),
            f'annotations/panoptic_{split}.zip': pack(pngs),
        },
    }


def downloads(folder: Path, *, panoptic: bool = True, **changes: bytes | None) -> Path:
    """The four archives, with members replaced or left out."""
    folder.mkdir()
    train, val = published('train2017', 1), published('val2017', 101)
    both = {
        'train2017.zip': train['images'],
        'val2017.zip': val['images'],
        'annotations_trainval2017.zip': train['instances'] | val['instances'],
    }
    if panoptic:
        both['panoptic_annotations_trainval2017.zip'] = train['panoptic'] | val['panoptic']
    for name, files in both.items():
        files = {k: changes.get(k, v) for k, v in files.items()}
        (folder / name).write_bytes(pack({k: v for k, v in files.items() if v is not None}))
    return folder


def small():
    layout = LAYOUTS['coco']
    splits = {k: replace(s, count=COUNTS[k]) for k, s in layout.splits.items()}
    return replace(layout, splits=splits)


def test_what_is_laid_out_is_what_mmdet_reads(tmp_path):
    from mmdet.registry import DATASETS

    done = prepare('coco', downloads(tmp_path / 'in'), tmp_path / 'out', small())
    assert done.problems == []
    assert done.counts == COUNTS
    again = prepare('coco', tmp_path / 'in', tmp_path / 'out', small())
    assert (again.new, again.kept, again.problems) == (0, done.new, [])
    init_default_scope('mmdet')
    for config, data in (('mask_rcnn_internvit', 'coco'), ('eomt_internvit_panoptic', None)):
        cfg = load_recipe(config, data=data or LAYOUTS['coco'].data)
        for split, count in zip(('train', 'val'), COUNTS.values(), strict=True):
            dataset = cfg[f'{split}_dataloader'].dataset
            dataset.data_root = str(tmp_path / 'out')
            items = DATASETS.build(dataset)
            assert len(items) == count
            assert len(items[0]['data_samples'].gt_instances) == 1


def test_panoptic_maps_may_be_left_out(tmp_path):
    done = prepare('coco', downloads(tmp_path / 'in', panoptic=False), tmp_path / 'out', small())
    assert done.problems == []


def test_what_is_missing_or_broken_is_named(tmp_path):
    train = published('train2017', 1)
    (name, text), *_ = train['instances'].items()
    content = json.loads(text)
    content['annotations'][1]['bbox'] = [50, 5, 30, 20]
    content['annotations'][2]['image_id'] = 9
    half = train['images']['train2017/000000000002.jpg']
    source = downloads(
        tmp_path / 'in',
        **{
            name: json.dumps(content).encode(),
            'train2017/000000000001.jpg': None,
            'train2017/000000000002.jpg': half[: len(half) // 2],
            'val2017/000000000101.jpg': encode(np.zeros((5, 5, 3), np.uint8), 'JPEG'),
            'annotations/instances_val2017.json': b'{"images": [',
        },
    )
    problems = prepare('coco', source, tmp_path / 'out', small()).problems
    text = '\n'.join(problems)
    for said in (
        'train2017: 2 images in ',
        '000000000001.jpg missing, 1 in all',
        'annotation 2: box [50, 5, 30, 20] of category 1 in an image of 60 x 40',
        'annotation 3 is of image 9, which the file does not have',
        '000000000002.jpg ends too early',
        'instances_val2017.json is no file of COCO annotations',
    ):
        assert said in text
    assert len(problems) == 6


def test_an_image_of_another_size_is_named(tmp_path):
    odd = {'val2017/000000000101.jpg': encode(np.zeros((5, 5, 3), np.uint8), 'JPEG')}
    done = prepare('coco', downloads(tmp_path / 'in', **odd), tmp_path / 'out', small())
    (problem,) = done.problems
    assert '000000000101.jpg is 5 x 5 pixels' in problem
