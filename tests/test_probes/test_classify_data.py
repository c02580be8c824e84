"""Labelled images in every layout that people have, made up in tiny."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from mmdet_seg.probes.classify_data import open_data
from mmdet_seg.probes.imagenet_sets import eval_sets, published_rows

WNIDS = ['n01440764', 'n01443537', 'n01484850', 'n01491361', 'n01494475', 'n01496331']
VAL = [3, 0, 5, 1, 1, 2]


def write(path, colour, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (colour * 40 % 256, 80, 120)).save(path)


def imagenet(root, *, flat):
    """The official layouts: a flat val with the authors' lists, or folders of classes."""
    lines = []
    for label, name in enumerate(WNIDS):
        for i in range(2):
            write(root / 'train' / name / f'{name}_{i}.JPEG', label)
            lines.append(f'{name}/{name}_{i}.JPEG {label}')
    for i, label in enumerate(VAL, 1):
        file = f'ILSVRC2012_val_{i:08d}.JPEG'
        write(root / 'val' / file if flat else root / 'val' / WNIDS[label] / file, label)
    if flat:
        (root / 'meta').mkdir()
        (root / 'meta/train.txt').write_text('\n'.join(lines) + '\n')
        names = (f'ILSVRC2012_val_{i:08d}.JPEG {label}' for i, label in enumerate(VAL, 1))
        (root / 'meta/val.txt').write_text('\n'.join(names))
    return root


@pytest.mark.parametrize('flat', [False, True])
def test_folders_and_the_authors_lists(tmp_path, flat):
    data = open_data(str(imagenet(tmp_path / 'imagenet-1k', flat=flat)))
    peer = ImageFolder(tmp_path / 'imagenet-1k/train')
    assert data.classes == data.train.classes == peer.classes == WNIDS
    assert data.train.labels.tolist() == peer.targets
    assert [str(f) for f in data.train.files] == [f for f, _ in peer.samples]
    assert sorted(data.val.labels.tolist()) == sorted(VAL)
    pixel = data.val.image(0).getpixel((0, 0))[0]
    assert abs(pixel - data.val.labels[0] * 40) < 8


def test_eval_sets_and_their_masks(tmp_path):
    root = imagenet(tmp_path / 'imagenet-1k', flat=True)
    for name, chosen in (('a', [1, 4]), ('r', [0, 2, 4]), ('sketch', range(6))):
        for label in chosen:
            write(tmp_path / f'imagenet-{name}' / WNIDS[label] / 'x.jpg', label)
    (tmp_path / 'imagenet-a/README.txt').write_text('not a class')
    # 10 and 9: by number, not by letters. (Six classes here, so 0 to 5.)
    for label in range(6):
        path = tmp_path / 'imagenetv2/ImageNetV2-matched-frequency' / str(label) / 'y.jpeg'
        write(path, label)
    real = [[3], [], [5, 2], [1], [], [2]]
    (tmp_path / 'imagenet-real').mkdir()
    (tmp_path / 'imagenet-real/real.json').write_text(json.dumps(real))
    data = open_data(str(root), train=False)
    assert data.train is None
    sets = eval_sets(['in-1k', 'real', 'v2', 'a', 'r', 'sketch'], data.val, root)
    found = {s.name: s for s in sets}
    assert found['a'].mask.tolist() == [1, 4]
    assert found['a'].images.labels.tolist() == [1, 4]
    assert found['r'].mask.tolist() == [0, 2, 4]
    assert found['sketch'].mask is None
    assert len(found['sketch'].images) == 6
    assert found['v2'].images.labels.tolist() == list(range(6))
    assert found['v2'].mask is None
    assert found['real'].sets == [[3], [5, 2], [1], [2]]
    assert found['real'].images.labels.tolist() == [3, 5, 1, 2]
    assert found['real'].images.item(1).endswith('val_00000003.JPEG')
    (elsewhere,) = eval_sets([f'r={tmp_path / "imagenet-r"}'], data.val, root)
    assert len(elsewhere.images) == 3
    with pytest.raises(FileNotFoundError, match=r'--eval r=/nowhere'):
        eval_sets(['r=/nowhere'], data.val, root)
    with pytest.raises(ValueError, match='--eval q: there is in-1k'):
        eval_sets(['q'], data.val, root)
    write(tmp_path / 'imagenet-a/n09999999/x.jpg', 1)
    with pytest.raises(ValueError, match='n09999999 is none of the 6 classes'):
        eval_sets(['a'], data.val, root)


def test_v2_folders_are_numbers_not_letters(tmp_path):
    root, names = tmp_path / 'imagenet-1k', [f'n{i:08d}' for i in range(12)]
    for name in names:
        write(root / 'val' / name / 'a.jpg', 1)
    for label in (2, 10, 11):
        write(tmp_path / 'imagenetv2' / str(label) / 'b.jpg', label)
    data = open_data(str(root), train=False)
    (v2,) = eval_sets(['v2'], data.val, root)
    assert sorted(v2.images.labels.tolist()) == [2, 10, 11]
    assert v2.images.classes == names


def test_published_rows_are_the_table():
    rows = {r['name']: r for r in published_rows(['sketch', 'v2'])}
    assert rows['InternViT-6B']['score'] == 88.23
    assert rows['InternViT-6B']['scores'] == {'sketch': 69.117, 'v2': 79.94}
    assert rows['ViT-22B']['scores'] == {'v2': 83.2}


def idx(path, values):
    values = np.asarray(values, dtype=np.uint8)
    head = bytes([0, 0, 8, values.ndim]) + np.asarray(values.shape, '>u4').tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = head + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


def mnist(folder, suffix=''):
    draws = np.random.default_rng(0)
    for stem, n in (('train', 7), ('t10k', 4)):
        pixels = draws.integers(0, 256, (n, 28, 28))
        idx(folder / f'{stem}-images-idx3-ubyte{suffix}', pixels)
        idx(folder / f'{stem}-labels-idx1-ubyte{suffix}', np.arange(n) % 10)


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_debians_files_of_fashion_mnist_read_as_torchvision_reads_them(tmp_path, suffix):
    mnist(tmp_path / 'debian', suffix)
    mnist(tmp_path / 'FashionMNIST/raw')
    ours = open_data(f'fashion-mnist:{tmp_path / "debian"}')
    peer = open_data(f'torchvision:FashionMNIST:{tmp_path}')
    assert ours.classes == peer.classes
    for part in ('train', 'val'):
        a, b = getattr(ours, part), getattr(peer, part)
        assert a.labels.tolist() == b.labels.tolist()
        assert len(a) > 3
        for i in range(len(a)):
            assert np.array_equal(a.image(i), b.image(i))
    (tmp_path / 'debian' / f'train-labels-idx1-ubyte{suffix}').write_bytes(b'abc')
    with pytest.raises(ValueError, match=r'damaged|is not an IDX file'):
        open_data(f'fashion-mnist:{tmp_path / "debian"}')


def test_a_part_is_drawn_by_the_seed_and_has_a_key_of_its_own(tmp_path):
    mnist(tmp_path)
    data = open_data(f'fashion-mnist:{tmp_path}').train
    part = data.limited(3, 0)
    assert len(part) == 3
    assert part.identity != data.identity
    assert np.array_equal(part.rows, data.limited(3, 0).rows)
    assert data.limited(99, 0) is data
    for i, row in enumerate(part.rows):
        assert np.array_equal(part.image(i), data.image(row))
        assert part.labels[i] == data.labels[row]


def test_mistakes_answer_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder; give one with train/CLASS'):
        open_data(str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='apt install dataset-fashion-mnist'):
        open_data(f'fashion-mnist:{tmp_path}')
    with pytest.raises(ValueError, match="no data set 'CIFAR'"):
        open_data('torchvision:CIFAR')
    with pytest.raises(FileNotFoundError, match='download=True'):
        open_data(f'torchvision:CIFAR10:{tmp_path}')
    root = imagenet(tmp_path / 'in', flat=True)
    (root / 'meta/val.txt').write_text('ILSVRC2012_val_00000001.JPEG three\n')
    with pytest.raises(ValueError, match=r'val.txt, line 1'):
        open_data(str(root))
    (root / 'meta/val.txt').unlink()
    with pytest.raises(FileNotFoundError, match='has no folders of classes'):
        open_data(str(root))
    broken = imagenet(tmp_path / 'in2', flat=False)
    file = broken / 'train' / WNIDS[0] / f'{WNIDS[0]}_0.JPEG'
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r'_0\.JPEG cannot be read'):
        open_data(str(broken)).train.image(0)
