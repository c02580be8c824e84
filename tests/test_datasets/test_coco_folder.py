"""A user's own images with annotations in COCO's layout."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmdet_seg.datasets.coco_annotations import find_coco
from mmdet_seg.datasets.coco_folder import CocoFolder
from mmdet_seg.engine.recipe import load_recipe
from tests.small_runs import tool

SIZE = (96, 128)


def content(first: int, number: int) -> dict:
    """Two kinds of boxes, with numbers as people leave them; the last image is empty."""
    images, annotations = [], []
    for i in range(first, first + number):
        images.append(dict(id=10 * i, file_name=f'shot {i}.png', height=SIZE[0], width=SIZE[1]))
        for kind, x in ((7, 10), (40, 70)) if i < first + number - 1 else ():
            x, y, w, h = x, 20 + i, 40, 50
            box = dict(id=100 * i + x, image_id=10 * i, category_id=kind, bbox=[x, y, w, h])
            box['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(box)  # neither area nor iscrowd
    kinds = [dict(id=40, name='kite'), dict(id=7, name='red box')]
    return dict(images=images, annotations=annotations, categories=kinds)


def write(folder: Path, file: str, images: str, given: dict) -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(given))
    for entry in given['images']:
        picture = np.full((*SIZE, 3), 90, np.uint8)
        for box in (a for a in given['annotations'] if a['image_id'] == entry['id']):
            x, y, w, h = box['bbox']
            picture[y : y + h, x : x + w] = (220, 30, 30) if box['category_id'] == 7 else 255
        Image.fromarray(picture).save(folder / images / entry['file_name'])
    return folder


FORMS = [
    ('annotations/instances_train.json', 'images/train', 'annotations/instances_val.json',
     'images/val'),
    ('train.json', 'images', 'val.json', 'images'),
    ('train/_annotations.coco.json', 'train', 'valid/_annotations.coco.json', 'valid'),
    ('annotations/train2017.json', 'train2017', 'annotations/val2017.json', 'val2017'),
    ('train.json', '.', 'test.json', '.'),
    ('coco_train.json', 'photos', 'coco_val.json', 'photos'),
]  # fmt: skip


@pytest.mark.parametrize(('train', 'train_images', 'val', 'val_images'), FORMS)
def test_files_lie_as_people_put_them(train, train_images, val, val_images, tmp_path):
    write(tmp_path, train, train_images, content(0, 4))
    write(tmp_path, val, val_images, content(4, 2))
    for split, number in (('train', 4), ('val', 2)):
        data = CocoFolder(tmp_path, split, test_mode=True, pipeline=[])
        assert data.metainfo['classes'] == ('kite', 'red box')
        assert len(data.metainfo['palette']) == 2
        assert len(data) == number
        entry = data.get_data_info(0)
        assert Path(entry['img_path']).is_file()
        # Numbered as the file lists its categories, not as its ids go.
        assert [i['bbox_label'] for i in entry['instances']] == [1, 0]
        assert entry['instances'][0]['bbox'][2:] == [50, entry['instances'][0]['bbox'][1] + 50]
    assert len(CocoFolder(tmp_path, filter_cfg=dict(filter_empty_gt=True), pipeline=[])) == 3


def test_of_one_file_a_fifth_validates(tmp_path):
    write(tmp_path, 'labels.json', 'images', content(0, 10))
    parts = [
        {CocoFolder(tmp_path, s, test_mode=True, pipeline=[]).get_data_info(i)['img_id']
         for i in range(n)}
        for s, n in (('train', 8), ('val', 2))
    ]  # fmt: skip
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {10 * i for i in range(10)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp('own') / 'my kites', 'all.json', 'images', content(0, 10))


def test_the_command_trains_on_it_and_scores_in_its_numbers(folder, tmp_path):
    options = [
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2',
        'param_scheduler.0.end=1', 'param_scheduler.1.begin=1', 'param_scheduler.1.end=2',
        'model.test_cfg.rcnn.score_thr=0.0', 'model.test_cfg.rcnn.max_per_img=5',
        *(f'{s}_dataloader.{k}' for s in ('train', 'val', 'test')
          for k in ('num_workers=0', 'persistent_workers=False')),
        'train_dataloader.batch_size=2',
    ]  # fmt: skip
    done = tool(
        'train', 'configs/mask_rcnn_internvit.py', '--arch', 'tiny', '--data', folder,
        '--work-dir', tmp_path / 'run', '--cfg-options', *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = json.loads((tmp_path / 'run/summary.json').read_text())['best']
    assert best['per_class_ap'].keys() == {'kite', 'red box'}
    done = tool(
        'test', tmp_path / 'run/mask_rcnn_internvit.py', tmp_path / 'run/iter_2', '--out',
        tmp_path / 'out', '--work-dir', tmp_path / 'test',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'segm_AP50: {best["segm_AP50"]:.2f}'
    results = json.loads((tmp_path / 'out/results.segm.json').read_text())
    truth = COCO(folder / 'all.json')
    assert {r['category_id'] for r in results} <= {7, 40}
    assert len(truth.loadRes(results).getAnnIds()) == len(results) > 0


def test_the_folder_is_looked_through(tmp_path):
    """Counts equal those of mmdet's own loading; what it would leave out is named."""
    given = content(0, 10)
    given['annotations'][0]['bbox'] = [SIZE[1] + 5, 10, 20, 20]
    given['annotations'][1]['iscrowd'] = 1
    write(tmp_path, 'all.json', 'images', given)
    (tmp_path / 'all.json').write_text(json.dumps(given))
    done = tool('prepare', 'check', tmp_path)
    assert done.returncode == 0, done.stderr
    parts = {
        s: CocoFolder(tmp_path, s, test_mode=True, pipeline=[]).load_data_list()
        for s in ('train', 'val')
    }
    boxes = {
        s: [i['bbox_label'] for e in entries for i in e['instances'] if not i['ignore_flag']]
        for s, entries in parts.items()
    }
    empty = {s: sum(not e['instances'] for e in entries) for s, entries in parts.items()}
    lines = done.stdout.splitlines()
    assert f'train 8 ({empty["train"] + 1} empty), val 2 ({empty["val"]} empty)' in lines[0]
    assert 'Sizes: 128 x 96 (10).' in done.stdout
    for line, label in ((lines[3], 0), (lines[4], 1)):
        assert line.split()[-3:-1] == [str(boxes[s].count(label)) for s in ('train', 'val')]
    assert '1 annotations of crowds' in done.stdout
    assert 'has no pixel in its image: 10 (shot 0.png)' in done.stdout
    assert lines[-1].startswith('Train on it: python tools/train.py configs/mask_rcnn_internvit.py')


def test_broken_images_are_named(tmp_path):
    given = content(0, 6)
    del given['annotations'][0]['segmentation']
    write(tmp_path, 'all.json', 'images', given)
    Image.new('RGB', SIZE).save(tmp_path / 'images/shot 2.png')
    turned = Image.new('RGB', SIZE[::-1])
    turned.save(tmp_path / 'images/shot 3.png', exif=(e := turned.getexif(), e.update({274: 6}))[0])
    (tmp_path / 'images/shot 4.png').write_bytes(b'no image')
    done = tool('prepare', 'check', tmp_path)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if line.startswith('Broken: ')]
    assert len(broken) == 3
    assert 'shot 2.png is 96 x 128 pixels as it is looked at, the annotations are' in broken[0]
    assert 'shot 3.png is 96 x 128 pixels as it is looked at' in broken[1]
    assert 'shot 4.png: cannot be read as an image' in broken[2]
    assert 'configs/dino_internvit.py --data' in done.stdout
    done = tool('prepare', 'check', tmp_path, '--seed', 1)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'name two files train.json and val.json' in done.stderr


def test_recipes_take_their_own_form(folder):
    small = load_recipe('mask_rcnn_internvit', data=str(folder))
    assert small.model.roi_head.bbox_head.num_classes == small.num_classes == 2
    assert small.model.semantic_head is None
    large = load_recipe('mask_rcnn_internvit', arch='300m-448px', data=str(folder))
    assert large.train_cfg.max_iters == 184375
    assert large.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=True, min_size=32)
    dino = load_recipe('dino_internvit', data=str(folder))
    assert dino.model.bbox_head.num_classes == 2
    assert not dino.train_dataloader.dataset.pipeline[1].with_mask


def changed(change) -> dict:
    given = copy.deepcopy(content(0, 4))
    change(given)
    return given


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c.pop('categories'), 'not in the layout of COCO: it has no categories'),
        (lambda c: c.update(annotations=[]), 'has no annotations.'),
        (lambda c: c['images'][1].pop('width'), r'images\[1\] has no width'),
        (lambda c: c['annotations'][0].update(category_id=3), 'category 3; listed are 7, 40'),
        (lambda c: c['annotations'][0].update(image_id=9), 'of image 9, which is not listed'),
        (lambda c: c['annotations'][0].update(bbox=[1, 2, 3]), r'bbox=\[1, 2, 3\], which is not'),
        (lambda c: c['annotations'][0].update(segmentation=[1, 2, 3, 4, 5, 6]), 'no list of poly'),
        (lambda c: c['annotations'][1].update(id=10), '1 ids of annotations stand for several'),
        (lambda c: c['categories'][0].update(name='red box'), "names the category 'red box' twice"),
    ],
)
def test_broken_files_answer_in_one_line(change, message, tmp_path):
    write(tmp_path, 'all.json', 'images', content(0, 4))
    (tmp_path / 'all.json').write_text(json.dumps(changed(change)))
    with pytest.raises(ValueError, match=message) as caught:
        find_coco(tmp_path)
    assert '\n' not in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no annotations: put a'):
        find_coco(tmp_path)
    write(tmp_path, 'train.json', 'images', content(0, 4))
    write(tmp_path, 'val.json', 'images', content(4, 2))
    (tmp_path / 'images/shot 1.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 4 images that are not in .*shot 1\.png'):
        find_coco(tmp_path)
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(FileNotFoundError, match='put the images into one of these'):
        find_coco(tmp_path)
    (tmp_path / 'train.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='not JSON that can be read'):
        find_coco(tmp_path)


def test_files_that_do_not_fit_together(tmp_path):
    write(tmp_path, 'train.json', 'images', content(0, 4))
    other = changed(lambda c: c['categories'].reverse())
    write(tmp_path, 'val.json', 'images', other)
    with pytest.raises(ValueError, match='the same ones in the same order'):
        find_coco(tmp_path)
    write(tmp_path, 'more_val.json', 'images', other)
    with pytest.raises(ValueError, match=r'more_val\.json, val\.json could all be'):
        find_coco(tmp_path)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('mask_rcnn_internvit', 'have no mask .*dino_internvit.py needs boxes alone'),
        ('eomt_internvit_panoptic', 'no truth for panoptic segments'),
    ],
)
def test_what_a_config_cannot_learn_from_boxes(config, message, tmp_path):
    given = content(0, 4)
    del given['annotations'][0]['segmentation']
    write(tmp_path, 'all.json', 'images', given)
    with pytest.raises(ValueError, match=message):
        load_recipe(config, data=str(tmp_path))
    load_recipe('dino_internvit', data=str(tmp_path))
