"""Public data sets, made up small in the form in which they are published, are laid out."""

import ast
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from pycocotools import mask as run_lengths

from mmdet_seg.datasets.pascal_context_labels import CATEGORIES
from mmdet_seg.datasets.prepare import prepare
from mmdet_seg.datasets.prepare_layouts import (
    CITYSCAPES_TRAIN_IDS,
    COCO_STUFF_TRAIN_IDS,
    LAYOUTS,
)
from mmdet_seg.engine.recipe import load_recipe

CONVERTERS = Path(find_spec('mmseg').origin).parent / '.mim' / 'tools' / 'dataset_converters'
SIZE = (20, 30)
# Values of the published label maps in bands, and what mmseg's data set makes of them.
PUBLISHED = {
    'ade20k': ([0, 1, 150], [255, 0, 149]),
    'coco_stuff': ([0, 10, 12, 181, 255], [0, 10, 11, 170, 255]),
    'cityscapes': ([0, 7, 9, 33], [255, 0, 255, 18]),
    'pascal_context': ([0, 2, 458], [255, 0, 58]),
    'voc12': ([0, 20, 255], [0, 20, 255]),
}
COUNTS = {'train': 3, 'val': 2}


def tree(name: str) -> dict[str, bytes]:
    """Files of a tiny set as published."""
    files = {}
    values = np.resize(np.array(PUBLISHED[name][0]), SIZE[0])
    label = np.tile(np.sort(values)[:, None], SIZE[1])
    number = 0
    images, regions, lists = [], [], {'train': [], 'val': []}
    for split, count in COUNTS.items():
        for i in range(1, count + 1):
            number += 1
            stem = {
                'ade20k': f'ADE_{split}_{i:08}',
                'coco_stuff': f'{number:012}',
                'cityscapes': f'ulm_{number:06}_000019',
            }.get(name, f'2008_{number:06}')
            lists[split].append(stem)
            paths = {
                'ade20k': (
                    f'ADEChallengeData2016/images/{split}ing/{stem}.jpg',
                    f'ADEChallengeData2016/annotations/{split}ing/{stem}.png',
                ),
                'coco_stuff': (f'{split}2017/{stem}.jpg', f'{split}2017/{stem}.png'),
                'cityscapes': (
                    f'leftImg8bit/{split}/ulm/{stem}_leftImg8bit.png',
                    f'gtFine/{split}/ulm/{stem}_gtFine_labelIds.png',
                ),
                'voc12': (
                    f'VOCdevkit/VOC2012/JPEGImages/{stem}.jpg',
                    f'VOCdevkit/VOC2012/SegmentationClass/{stem}.png',
                ),
                'pascal_context': (f'VOCdevkit/VOC2010/JPEGImages/{stem}.jpg', None),
            }[name]
            paths = [p and p.replace('valing', 'validation') for p in paths]
            files[paths[0]] = encode(np.full((*SIZE, 3), 99, np.uint8), paths[0])
            if paths[1]:
                files[paths[1]] = encode(label.astype(np.uint8), paths[1], palette=name == 'voc12')
                continue
            image = dict(image_id=number, file_name=f'{stem}.jpg', phase=split)
            images.append(image | dict(height=SIZE[0], width=SIZE[1]))
            for category in PUBLISHED[name][0][1:]:
                coded = run_lengths.encode(np.asfortranarray(label == category).astype(np.uint8))
                coded['counts'] = coded['counts'].decode()
                regions.append(dict(image_id=number, category_id=category, segmentation=coded))
    if name == 'voc12':
        for split, names in lists.items():
            text = ''.join(f'{n}\n' for n in names).encode()
            files[f'VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt'] = text
    if name == 'pascal_context':
        content = dict(images=images, annos_segmentation=regions)
        files['trainval_merged.json'] = json.dumps(content).encode()
    return files


def encode(pixels: np.ndarray, path: str, palette: bool = False) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([i * 7 % 256 for i in range(768)])
    image.save(stream, format='PNG' if path.endswith('.png') else 'JPEG')
    return stream.getvalue()


def as_folder(files: dict[str, bytes], at: Path) -> Path:
    for name, content in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(content)
    return at


def as_zip(files: dict[str, bytes], at: Path) -> Path:
    with zipfile.ZipFile(at, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return at


def as_tar(files: dict[str, bytes], at: Path) -> Path:
    with tarfile.open(at, 'w:gz') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return at


def small(name: str):
    """The layout with the counts of :func:`tree`."""
    layout = LAYOUTS[name]
    splits = zip(layout.splits.items(), COUNTS.values(), strict=True)
    return replace(layout, splits={k: replace(s, count=n) for (k, s), n in splits})


@pytest.mark.parametrize(
    ('name', 'form'),
    [
        ('ade20k', 'zip'),
        ('voc12', 'tar'),
        ('cityscapes', 'folder'),
        *((name, 'folder of archives') for name in sorted(PUBLISHED)),
    ],
)
def test_what_is_laid_out_is_what_mmseg_reads(name, form, tmp_path):
    files = tree(name)
    if form == 'folder':
        source = as_folder(files, tmp_path / 'download')
    elif form == 'zip':
        source = as_zip(files, tmp_path / 'download.zip')
    elif form == 'tar':
        source = as_tar(files, tmp_path / 'download.tgz')
    else:  # images in one archive, the rest in another or beside it
        source = tmp_path / 'downloads'
        source.mkdir()
        jpegs = {k: v for k, v in files.items() if k.endswith('.jpg') or 'leftImg8bit' in k}
        as_zip(jpegs, source / 'images.zip')
        loose = {k: v for k, v in files.items() if k.endswith('.json')}
        as_folder(loose, source)
        rest = {k: v for k, v in files.items() if k not in jpegs | loose}
        as_tar(rest, source / 'rest.tar.gz')
    done = prepare(name, source, tmp_path / 'out', small(name))
    assert done.problems == []
    assert list(done.counts.values()) == [3, 2]
    again = prepare(name, source, tmp_path / 'out', small(name))
    assert (again.new, again.kept, again.problems) == (0, done.new, [])

    cfg = load_recipe('linear_internvit', data=LAYOUTS[name].data)
    init_default_scope('mmseg')
    for split, count in COUNTS.items():
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(tmp_path / 'out')
        items = DATASETS.build(dataset)
        assert len(items) == count
    labels = items[0]['data_samples'].gt_sem_seg.data  # validation: labels keep their size
    assert labels.shape == (1, *SIZE)
    published = np.sort(np.resize(np.array(PUBLISHED[name][0]), SIZE[0]))
    rule = dict(zip(*PUBLISHED[name], strict=True))
    assert labels[0, :, 0].tolist() == [rule[x] for x in published.tolist()]


def test_tables_are_those_of_mmseg():
    """mmseg's converters hold the same two tables."""
    tables = {}
    for module in ('coco_stuff164k', 'pascal_context'):
        for node in ast.parse((CONVERTERS / f'{module}.py').read_text()).body:
            if isinstance(node, ast.Assign):
                tables[node.targets[0].id] = node.value
    theirs = ast.literal_eval(tables['clsID_to_trID'])
    assert theirs == COCO_STUFF_TRAIN_IDS
    numbers = {n.value for n in ast.walk(tables['_mapping']) if isinstance(n, ast.Constant)}
    assert sorted(numbers) == [0, *CATEGORIES]
    assert sorted(set(CITYSCAPES_TRAIN_IDS.values())) == [*range(19), 255]


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    source = as_zip(tree('ade20k'), tmp_path / 'x.zip')
    from mmdet_seg.datasets import prepare as module

    write, calls = module._write, []

    def killed(target, content):
        calls.append(target)
        if len(calls) == 4:
            target.with_name(f'.{target.name}.part').write_bytes(content[:10])
            raise KeyboardInterrupt
        write(target, content)

    monkeypatch.setattr(module, '_write', killed)
    with pytest.raises(KeyboardInterrupt):
        prepare('ade20k', source, tmp_path / 'out', small('ade20k'))
    monkeypatch.undo()
    done = prepare('ade20k', source, tmp_path / 'out', small('ade20k'))
    assert (done.new, done.kept, done.problems) == (7, 3, [])


def test_a_folder_is_linked_and_left_as_it_is(tmp_path):
    files = tree('ade20k')
    source = as_folder(files, tmp_path / 'download')
    prepare('ade20k', source, tmp_path / 'out', small('ade20k'))
    name = 'images/training/ADE_train_00000001.jpg'
    assert (tmp_path / 'out' / name).samefile(source / 'ADEChallengeData2016' / name)
    assert {p.relative_to(source).as_posix() for p in source.rglob('*') if p.is_file()} == {*files}


def broken(name: str, tmp_path: Path, **changes: bytes | None) -> list[str]:
    files = {k: v for k, v in (tree(name) | changes).items() if v is not None}
    return prepare(name, as_zip(files, tmp_path / 'x.zip'), tmp_path / 'out', small(name)).problems


def test_what_is_missing_or_broken_is_named(tmp_path):
    top = 'ADEChallengeData2016'
    label = encode(np.full(SIZE, 151, np.uint8), 'x.png')
    small_label = encode(np.zeros((5, 5), np.uint8), 'x.png')
    whole = tree('ade20k')[f'{top}/images/training/ADE_train_00000003.jpg']
    changes = {
        f'{top}/images/training/ADE_train_00000001.jpg': None,
        f'{top}/annotations/training/ADE_train_00000002.png': label,
        f'{top}/images/training/ADE_train_00000003.jpg': whole[: len(whole) // 2],
        f'{top}/annotations/validation/ADE_val_00000001.png': None,
        f'{top}/annotations/validation/ADE_val_00000002.png': small_label,
    }
    problems = '\n'.join(broken('ade20k', tmp_path, **changes))
    for said in (
        r'training: 2 images in ',
        '3 published; missing: ADE_train_00000001.jpg',
        'ADE_train_00000001.jpg missing, 1 label maps are without images',
        'ADE_train_00000002.png: value 151; labels are 0 to 150.',
        'ADE_train_00000003.jpg ends too early',
        'ADE_val_00000001.png missing, 1 of 2 images are without labels',
        'ADE_val_00000002.png is 5 x 5 pixels, its image 30 x 20.',
    ):
        assert said in problems
    assert len(problems.splitlines()) == 6


def test_maps_of_another_kind_are_refused_by_value(tmp_path):
    """COCO's stuff-only maps number 'other' 183."""
    maps = {'train2017/000000000001.png': encode(np.full(SIZE, 183, np.uint8), 'x.png')}
    problems = broken('coco_stuff', tmp_path, **maps)
    assert 'value 183; labels are 0 to 181 and 255' in problems[0]
    assert '000000000001_labelTrainIds.png missing' in problems[1]


@pytest.mark.parametrize('pack', [as_zip, as_tar])
@pytest.mark.parametrize(
    'name', ['../images/training/ADE_train_00000009.jpg', '/etc/x', 'a\\..\\b']
)
def test_members_that_would_land_outside_are_refused(pack, name, tmp_path):
    source = pack({name: b'x'} | tree('ade20k'), tmp_path / 'x.archive')
    with pytest.raises(ValueError, match='would land outside'):
        prepare('ade20k', source, tmp_path / 'out' / 'deep', small('ade20k'))
    assert [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['x.archive']


def test_sources_that_cannot_be_used(tmp_path):
    cut = as_zip(tree('ade20k'), tmp_path / 'cut.zip')
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / 'empty').mkdir()
    as_folder({'trainval_merged.json': b'{"images": ['}, tmp_path / 'json')
    for name, source, message in (
        ('ade20k', 'none.zip', 'no such file'),
        ('ade20k', 'cut.zip', 'not downloaded to the end'),
        ('ade20k', 'empty', r'holds no file of ade20k; .* ADEChallengeData2016\.zip'),
        ('pascal_context', 'json', 'trainval_merged.json is not whole'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            prepare(name, tmp_path / source, tmp_path / 'out')


def test_a_member_with_a_wrong_checksum_is_named(tmp_path):
    source = as_zip(tree('ade20k'), tmp_path / 'x.zip')
    content = bytearray(source.read_bytes())
    at = content.index(b'ADE_val_00000002.jpg') + 60  # the first entry: inside the data
    content[at] ^= 0xFF
    source.write_bytes(content)
    problems = prepare('ade20k', source, tmp_path / 'out', small('ade20k')).problems
    assert 'ADE_val_00000002.jpg: Bad CRC-32' in problems[0]
