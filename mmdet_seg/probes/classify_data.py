"""Labelled images: folders of classes, the authors' lists, torchvision's sets, Fashion-MNIST."""

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmdet_seg.engine.images import SUFFIXES
from mmdet_seg.probes.labelled_images import LabelledImages

FASHION = '/usr/share/datasets/fashion-mnist'
_FASHION_CLASSES = (
    *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
    *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
)
_VAL = ('val', 'validation', 'valid', 'test')


class ClassificationData(NamedTuple):
    """A data set in two parts; ``train`` is None where only the other was asked for."""

    name: str
    root: str
    train: LabelledImages | None
    val: LabelledImages

    @property
    def classes(self) -> list[str]:
        return self.val.classes


def open_data(spec: str, *, train: bool = True) -> ClassificationData:
    """What ``--data`` means.

    Args:
        spec: ``fashion-mnist[:FOLDER]`` (files of Debian's package), ``torchvision:NAME[:ROOT]``,
            or a folder: ``train/CLASS/...`` and ``val/CLASS/...``, or with the authors' lists
            ``meta/train.txt`` and ``meta/val.txt`` (a path below ``train`` or ``val`` and a class
            number on each line).
        train: Whether the training part is needed.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not laid out like this.
    """
    kind, _, rest = spec.partition(':')
    if kind == 'fashion-mnist':
        return _fashion(Path(rest or FASHION))
    if kind == 'torchvision':
        name, _, root = rest.partition(':')
        return _torchvision(name, root or 'data')
    root = Path(spec).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f'--data {spec}: no such folder; give one with train/CLASS and val/CLASS, '
            'fashion-mnist, or torchvision:CIFAR10[:ROOT].'
        )
    return _folder(root, train)


def class_folder(name: str, folder: Path, classes: Sequence[str] | None = None) -> LabelledImages:
    """Images in one folder per class, at any depth below it.

    Args:
        name: For messages.
        folder: Holds the classes' folders; folders without images do not count.
        classes: The classes' folders in order; None is their sorted names.

    Raises:
        FileNotFoundError: No images.
        ValueError: A folder that is none of ``classes``.
    """
    found = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != '.'}
    images = {k: _images_below(p) for k, p in found.items()}
    images = {k: files for k, files in images.items() if files}
    if not images:
        raise FileNotFoundError(
            f'{folder} has no images in folders of classes ({", ".join(SUFFIXES[:4])}, ...).'
        )
    order = list(classes) if classes is not None else sorted(images)
    place = {k: i for i, k in enumerate(order)}
    if strange := [k for k in images if k not in place]:
        raise ValueError(
            f'{folder}/{strange[0]} is none of the {len(order)} classes of the training folder '
            f'({order[0]}, ...).'
        )
    labels = [place[k] for k, files in images.items() for _ in files]
    return LabelledImages(name, labels, order, files=[f for x in images.values() for f in x])


def _images_below(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda e: e.name)
    files = [Path(e.path) for e in entries if e.name.lower().endswith(SUFFIXES)]
    deeper = [f for e in entries if e.is_dir() for f in _images_below(Path(e.path))]
    return files + deeper


def _folder(root: Path, train: bool) -> ClassificationData:
    parts, name = {}, root.resolve().name
    val = next((v for v in _VAL if (root / v).is_dir()), None)
    lists = {p: root / 'meta' / f'{p}.txt' for p in ('train', 'val')}
    if val is None:
        raise FileNotFoundError(f'{root} has no folder val (nor test); it needs train and val.')
    if train and not (root / 'train').is_dir():
        raise FileNotFoundError(f'{root} has no folder train; only --head can do without.')
    classes = None
    if (root / 'train').is_dir() and any(p.is_dir() for p in (root / 'train').iterdir()):
        folders = (p for p in (root / 'train').iterdir() if p.is_dir() and p.name[0] != '.')
        classes = sorted(p.name for p in folders)
    for part, folder in (('train', root / 'train'), ('val', root / val)):
        if part == 'train' and not train:
            parts[part] = None
        elif lists[part].is_file():
            parts[part] = _listed(f'{name}/{part}', lists[part], folder, classes)
        else:
            if not any(p.is_dir() for p in folder.iterdir()):
                raise FileNotFoundError(
                    f'{folder} has no folders of classes and there is no {lists[part]} with a '
                    'file name and a class number on each line.'
                )
            parts[part] = class_folder(f'{name}/{part}', folder, classes)
    if parts['train'] is not None and len(parts['val'].classes) != len(parts['train'].classes):
        classes = max((parts[p].classes for p in parts), key=len)
        parts['train'].classes = parts['val'].classes = classes
    return ClassificationData(name, str(root), parts['train'], parts['val'])


def _listed(name: str, file: Path, folder: Path, classes: list[str] | None) -> LabelledImages:
    files, labels = [], []
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) != 2 or not words[1].isdigit():
            raise ValueError(
                f'{file}, line {number}: {line[:60]!r} is not a file name and a class number.'
            )
        files.append(folder / words[0])
        labels.append(int(words[1]))
    if not files:
        raise ValueError(f'{file} is empty; it needs a file name and a class number on each line.')
    if not files[0].is_file():
        raise FileNotFoundError(f'{files[0]} does not exist, though {file} names it.')
    count = max(labels) + 1
    if classes is None or len(classes) < count:
        classes = [str(i) for i in range(count)]
    return LabelledImages(name, labels, classes, files=files)


def _fashion(folder: Path) -> ClassificationData:
    parts = {}
    for part, stem in (('train', 'train'), ('val', 't10k')):
        pixels = _idx(folder / f'{stem}-images-idx3-ubyte', 3)
        labels = _idx(folder / f'{stem}-labels-idx1-ubyte', 1)
        if len(pixels) != len(labels) or labels.max(initial=0) >= len(_FASHION_CLASSES):
            raise ValueError(f'{folder}: {len(pixels)} images, {len(labels)} labels of {stem}.')
        name = f'fashion-mnist/{part}'
        parts[part] = LabelledImages(name, labels, _FASHION_CLASSES, pixels=pixels)
    return ClassificationData('fashion-mnist', str(folder), parts['train'], parts['val'])


def _idx(path: Path, num_dims: int) -> np.ndarray:
    """An array of bytes in the IDX format, packed or not."""
    packed = path.with_name(f'{path.name}.gz')
    if not path.is_file() and not packed.is_file():
        raise FileNotFoundError(
            f'{packed} does not exist: apt install dataset-fashion-mnist, or name the folder of '
            'its files: --data fashion-mnist:FOLDER.'
        )
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f'{packed} is damaged ({error}); install it again.') from None
    head = 4 + 4 * num_dims
    sizes = np.frombuffer(data[4:head], dtype='>u4').astype(int)
    if data[:4] != bytes([0, 0, 8, num_dims]) or len(data) != head + int(np.prod(sizes)):
        raise ValueError(f'{path} is not an IDX file of bytes in {num_dims} dimensions.')
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(sizes)


def _torchvision(name: str, root: str) -> ClassificationData:
    import inspect

    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind) or name.startswith('_'):
        raise ValueError(
            f'torchvision has no data set {name!r}; take one that has classes, such as CIFAR10.'
        )
    known = inspect.signature(kind.__init__).parameters
    if 'train' in known:
        choices = [[{'train': True}], [{'train': False}]]
    elif 'split' in known:
        choices = [[{'split': 'train'}], [{'split': s} for s in ('test', 'val', 'valid')]]
    else:
        raise ValueError(f'torchvision:{name} has no part for training and one for testing.')
    root = str(Path(root).expanduser())
    parts = []
    for choice in choices:
        for i, chosen in enumerate(choice):
            try:
                parts.append(kind(root, **chosen))
                break
            except (RuntimeError, OSError) as error:
                raise FileNotFoundError(
                    f'torchvision:{name} is not in {root} ({error}); download it there first: '
                    f'torchvision.datasets.{name}({root!r}, download=True).'
                ) from None
            except ValueError as error:
                if i == len(choice) - 1:
                    raise ValueError(f'torchvision:{name}: {error}') from None
    train, val = (_labelled(f'{name}/{p}', d) for p, d in zip(('train', 'val'), parts, strict=True))
    return ClassificationData(name, root, train, val)


def _labelled(name: str, dataset: Any) -> LabelledImages:
    known = ('targets', 'labels', '_labels', 'y')
    labels = next((getattr(dataset, k) for k in known if hasattr(dataset, k)), None)
    if labels is None:
        labels = [dataset[i][1] for i in range(len(dataset))]
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f'torchvision:{name} has no single class for each image.')
    classes = getattr(dataset, 'classes', None) or range(int(labels.max()) + 1)
    return LabelledImages(name, labels, [str(c) for c in classes], dataset=dataset)
