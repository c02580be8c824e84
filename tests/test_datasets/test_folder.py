"""A user's own folder of images and masks: found, checked, read as class numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdet_seg.datasets import FolderSegDataset, LoadFolderMask
from mmdet_seg.datasets.folder_check import check_folder
from mmdet_seg.datasets.folder_index import read_index

SIZE = (24, 36)
TRUTH = np.repeat([0, 1, 2, 1], 6)[:, None].repeat(SIZE[1], 1)  # class numbers
COLORS = [(0, 0, 0), (128, 64, 128), (255, 0, 7)]


def as_values(*values: int) -> Image.Image:
    dtype = np.uint8 if max(values) < 256 else np.uint16
    return Image.fromarray(np.array(values, dtype)[TRUTH])


def as_colors() -> Image.Image:
    return Image.fromarray(np.array(COLORS, np.uint8)[TRUTH])


def as_palette(*values: int) -> Image.Image:
    image = as_values(*values)
    image.putpalette([x for i in range(256) for x in (i * 31 % 256, 255 - i, 7)])
    return image


def write(
    folder: Path, masks: list[Image.Image], images: str = 'images', labels: str = 'masks',
    image: str = '{}.jpg', mask: str = '{}.png', first: int = 0,
) -> Path:  # fmt: skip
    for name in (images, labels):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, label in enumerate(masks, first):
        Image.new('RGB', SIZE[::-1], (i, 99, 0)).save(folder / images / image.format(f'shot {i}'))
        label.save(folder / labels / mask.format(f'shot {i}'))
    return folder


def read(folder: Path, split: str = 'train') -> np.ndarray:
    dataset = FolderSegDataset(folder, split, pipeline=[LoadFolderMask()])
    return dataset[0]['gt_seg_map']


@pytest.mark.parametrize(
    ('mask', 'names', 'expected'),
    [
        (as_values(1, 2, 3), ['class_1', 'class_2', 'class_3'], TRUTH),
        (as_values(40, 7, 200), ['class_7', 'class_40', 'class_200'], np.array([1, 0, 2])[TRUTH]),
        (as_values(0, 255, 0), ['background', 'foreground'], np.array([0, 1, 0])[TRUTH]),
        (as_values(3, 255, 9), ['class_3', 'class_9'], np.array([0, 255, 1])[TRUTH]),
        (as_values(0, 1000, 30000), ['class_0', 'class_1000', 'class_30000'], TRUTH),
        (as_palette(0, 15, 2), ['class_0', 'class_2', 'class_15'], np.array([0, 2, 1])[TRUTH]),
        (as_values(5, 6, 8).convert('RGB'), ['class_5', 'class_6', 'class_8'], TRUTH),
        (as_colors(), ['color_000000', 'color_804080', 'color_ff0007'], TRUTH),
        (as_colors().convert('RGBA'), ['color_000000', 'color_804080', 'color_ff0007'], TRUTH),
        (as_values(0, 255, 0).convert('1'), ['class_0', 'class_1'], np.array([0, 1, 0])[TRUTH]),
    ],
)
def test_any_kind_of_mask(mask, names, expected, tmp_path):
    report = check_folder(write(tmp_path, [mask] * 3))
    assert report.index.classes == names
    label = read(tmp_path)
    assert label.dtype == np.uint8
    assert np.array_equal(label, expected)


@pytest.mark.parametrize(
    ('mask', 'text', 'names', 'expected'),
    [
        (as_values(9, 40, 200), 'a\nb\nc\n', ['a', 'b', 'c'], TRUTH),
        (as_values(9, 40, 255), 'a\nb\n', ['a', 'b'], np.array([0, 1, 255])[TRUTH]),
        (as_values(9, 40, 255), '# mine\n9 a\n255 white\n', ['a', 'white'],
         np.array([0, 255, 1])[TRUTH]),
        (as_values(9, 40, 41), '40: b\n41: c\n9: ignore\n', ['b', 'c'],
         np.array([255, 0, 1])[TRUTH]),
        (as_colors(), '255 0 7 red car\n128, 64, 128, road\n', ['red car', 'road'],
         np.array([255, 1, 0])[TRUTH]),
    ],
)  # fmt: skip
def test_names_come_from_classes_txt(mask, text, names, expected, tmp_path):
    write(tmp_path, [mask] * 2)
    (tmp_path / 'classes.txt').write_text(text)
    check_folder(tmp_path)
    dataset = FolderSegDataset(tmp_path, pipeline=[LoadFolderMask()])
    assert list(dataset.metainfo['classes']) == names
    assert np.array_equal(dataset[0]['gt_seg_map'], expected)


def test_grey_masks_among_coloured_ones_count_by_their_look(tmp_path):
    black = Image.fromarray(np.zeros(SIZE, np.uint8))
    report = check_folder(write(tmp_path, [as_colors(), black, as_colors()]))
    assert [tuple(x) for x in report.index.labels] == COLORS
    assert report.masks[0] == 3


@pytest.mark.parametrize(
    'names',
    [
        dict(images='imgs', labels='Labels', image='{}.png', mask='{}.png'),
        dict(images='photos', labels='annotations', image='{}.tif', mask='{}_mask.bmp'),
        dict(images='img', labels='gt', image='{}_image.webp', mask='{}-labels.png'),
        dict(images='Images/a/b', labels='masks/a/b', image='{}.JPG'),
    ],
)
def test_any_names(names, tmp_path):
    report = check_folder(write(tmp_path, [as_values(0, 1, 2)] * 5, **names))
    assert {k: len(v) for k, v in report.index.splits.items()} == {'train': 4, 'val': 1}
    assert not report.pairs.no_mask + report.pairs.no_image
    assert np.array_equal(read(tmp_path, 'val'), TRUTH)


@pytest.mark.parametrize('form', ['{kind}/{split}', '{split}/{kind}'])
@pytest.mark.parametrize('held_out', ['valid', 'test'])
def test_the_folders_own_splits(form, held_out, tmp_path):
    for split, numbers in (('train', (0, 3)), (held_out, (3, 5))):
        kinds = {k: form.format(kind=v, split=split)
                 for k, v in (('images', 'images'), ('labels', 'masks'))}  # fmt: skip
        masks = [as_values(0, 1, 2)] * (numbers[1] - numbers[0])
        write(tmp_path, masks, **kinds, first=numbers[0])
    index = check_folder(tmp_path).index
    assert {k: len(v) for k, v in index.splits.items()} == {'train': 3, 'val': 2}
    assert index.seed is None


def test_splits_and_hash_depend_on_what_they_should(tmp_path):
    write(tmp_path, [as_values(0, 1, 2)] * 10)
    first = check_folder(tmp_path, seed=0).index
    assert check_folder(tmp_path, seed=0).index == first
    assert not {tuple(x) for x in first.splits['train']} & {tuple(x) for x in first.splits['val']}
    other = check_folder(tmp_path, seed=1)
    assert other.index.splits != first.splits
    assert other.index.sha256 == first.sha256
    assert other.replaced == first.sha256
    as_values(0, 2, 1).save(tmp_path / 'masks' / 'shot 3.png')
    assert check_folder(tmp_path).index.sha256 != first.sha256


def test_the_report_names_what_is_wrong_and_leaves_it_out(tmp_path):
    write(tmp_path, [as_values(0, 1, 2)] * 8)
    (tmp_path / 'images' / 'shot 0.jpg').write_bytes(b'no image')
    whole = (tmp_path / 'images' / 'shot 1.jpg').read_bytes()
    (tmp_path / 'images' / 'shot 1.jpg').write_bytes(whole[:-20])
    as_values(0, 1, 2).resize((9, 9)).save(tmp_path / 'masks' / 'shot 2.png')
    (tmp_path / 'masks' / 'shot 3.png').unlink()
    (tmp_path / 'images' / 'shot 4.jpg').unlink()
    as_values(0, 1, 2).save(tmp_path / 'images' / 'shot 5.png')
    report = check_folder(tmp_path)
    text = '\n'.join(report.lines())
    assert sum(map(len, report.index.splits.values())) == 2
    for said in (
        'shot 0.jpg: cannot be read as an image (no kind of image that is known)',
        'shot 1.jpg: cannot be read as an image (image file is truncated',
        'shot 2.png is 9 x 9 pixels, its image 36 x 24',
        '1 without a mask: images/shot 3.jpg',
        '1 masks without an image: masks/shot 4.png',
        'images/shot 5.jpg, images/shot 5.png, masks/shot 5.png: which belong together?',
        '36 x 24 (2)',
        '50.00 %',  # class 1 covers half
    ):
        assert said in text


def test_mistakes_answer_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder'):
        check_folder(tmp_path / 'none')
    (tmp_path / 'images').mkdir()
    with pytest.raises(FileNotFoundError, match='holds images; it needs images/ and masks/'):
        check_folder(tmp_path)
    (tmp_path / 'masks').mkdir()
    with pytest.raises(ValueError, match='no image has a mask of the same name'):
        check_folder(tmp_path)
    write(tmp_path, [as_values(0, 1, 2)])
    with pytest.raises(ValueError, match='1 pair is too few'):
        check_folder(tmp_path)
    write(tmp_path, [as_values(0, 1, 2)] * 2)
    (tmp_path / 'classes.txt').write_text('one\ntwo\n')
    with pytest.raises(ValueError, match=r'names 2 classes, but the masks hold 3 values \(0, 1, 2'):
        check_folder(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    (tmp_path / 'dataset.json').write_text('{"of": "another program"}')
    with pytest.raises(ValueError, match=r"was not written by 'prepare\.py check'"):
        check_folder(tmp_path)
    assert json.loads((tmp_path / 'dataset.json').read_text()) == {'of': 'another program'}
    with pytest.raises(FileNotFoundError, match=r'python tools/prepare.py check .*masks'):
        read_index(tmp_path / 'masks')


def test_photographs_as_masks_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match='more than 255 classes: JPEG or smoothed edges'):
        check_folder(write(tmp_path, [Image.fromarray(noise)] * 2))


def test_a_file_that_is_gone_is_named_before_training(tmp_path):
    write(tmp_path, [as_values(0, 1, 2)] * 4)
    check_folder(tmp_path)
    for path in (tmp_path / 'masks').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'is gone since the folder was prepared'):
        FolderSegDataset(tmp_path)
