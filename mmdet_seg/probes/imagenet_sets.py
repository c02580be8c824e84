"""The data sets on which ImageNet classifiers are tested beside its own validation images.

A, R and Sketch are laid out by WordNet names (one folder per class), which say what the classes are
and, of A and R, which 200 of the 1000 count: nothing is listed here. V2's folders are the class
numbers. ReaL gives several right classes to ImageNet's own images, or none: those are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdet_seg.probes.classify_data import class_folder
from mmdet_seg.probes.labelled_images import LabelledImages

# Where the sets lie, beside the folder of ImageNet: the authors' names, then those of the archives.
_FOLDERS = {
    'v2': (
        'imagenetv2/ImageNetV2-matched-frequency',
        'imagenetv2/imagenetv2-matched-frequency-format-val',
        'ImageNetV2-matched-frequency',
        'imagenetv2-matched-frequency-format-val',
        'imagenetv2',
    ),
    'a': ('imagenet-a',),
    'r': ('imagenet-r',),
    'sketch': ('imagenet-sketch/sketch', 'imagenet-sketch', 'sketch'),
}
_REAL = ('imagenet-real/real.json', 'meta/real.json', 'real.json')
NAMES = ('in-1k', 'real', *_FOLDERS)

# spec: the published linear probe at 224 px and the methods that its paper lists beside it.
_SOURCE = 'InternVL, linear probe at 224 px, published'
_SETS = ('in-1k', 'real', 'v2', 'a', 'r', 'sketch')
_PUBLISHED = {
    'InternViT-6B': (88.230, 90.437, 79.940, 77.479, 89.777, 69.117),
    'OpenCLIP-G': (86.2, 89.4, 77.2, 63.8, 87.8, 66.4),
    'DINOv2-g': (86.5, 89.6, 78.4, 75.9, 78.8, 62.5),
    'EVA-01-CLIP-g': (86.5, 89.3, 77.4, 70.5, 87.7, 63.1),
    'MAWS-ViT-6.5B': (87.8, None, None, None, None, None),
    'ViT-22B': (89.5, 90.9, 83.2, 83.8, 87.4, None),
}


@dataclass
class EvalSet:
    """Images to test on.

    Attributes:
        name: One of :data:`NAMES`, or ``val``.
        images: With class numbers of the head.
        mask: The classes that count, sorted; None is all.
        sets: Of every image the classes that are right; None where it is the one label.
    """

    name: str
    images: LabelledImages
    mask: np.ndarray | None = None
    sets: list[list[int]] | None = None


def eval_sets(
    names: Sequence[str], val: LabelledImages, root: Path, roots: Sequence[Path] = ()
) -> list[EvalSet]:
    """The sets of ``--eval``.

    Args:
        names: Of :data:`NAMES`, each perhaps with its place: ``r=FOLDER``, ``real=FILE``.
        val: ImageNet's validation images; the classes are WordNet names, sorted.
        root: ImageNet's folder.
        roots: Where else the sets are looked for.

    Raises:
        FileNotFoundError: A set is not there; the line says where it was looked for.
        ValueError: An unknown name, or classes that are not ImageNet's.
    """
    found = []
    for entry in names:
        name, _, place = entry.partition('=')
        if name not in NAMES:
            raise ValueError(f'--eval {name}: there is {", ".join(NAMES)}.')
        if name == 'in-1k':
            found.append(EvalSet(name, val))
            continue
        if name == 'real':
            found.append(_real(val, _find(name, _REAL, place, root, roots)))
            continue
        folder = _find(name, _FOLDERS[name], place, root, roots)
        found.append(_v2(folder, val) if name == 'v2' else _by_name(name, folder, val))
    return found


def published_rows(names: Sequence[str]) -> list[dict]:
    """Others' figures as results keep them: on ImageNet, and on the sets that a run names."""
    rows = []
    for method, found in _PUBLISHED.items():
        scores = dict(zip(_SETS, found, strict=True))
        shown = {k: v for k, v in scores.items() if k in names and v is not None}
        row = {'name': method, 'score': scores['in-1k'], 'scores': shown, 'source': _SOURCE}
        rows.append(row)
    return rows


def _find(
    name: str, candidates: Sequence[str], place: str, root: Path, roots: Sequence[Path]
) -> Path:
    if place:
        if not Path(place).expanduser().exists():
            raise FileNotFoundError(f'--eval {name}={place}: no such file or folder.')
        return Path(place).expanduser()
    tried = [base / c for base in (*roots, root.resolve().parent, root) for c in candidates]
    path = next((p for p in tried if p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f'--eval {name}: there is no {tried[0]} (nor {len(tried) - 1} other usual places); '
            f'give it with --eval {name}=PATH.'
        )
    return path


def _by_name(name: str, folder: Path, val: LabelledImages) -> EvalSet:
    _check_names(name, val)
    images = class_folder(name, folder, val.classes)
    if name == 'sketch':
        return EvalSet(name, images)
    return EvalSet(name, images, np.unique(images.labels))


def _v2(folder: Path, val: LabelledImages) -> EvalSet:
    numbers = [str(i) for i in range(len(val.classes))]
    try:
        images = class_folder('v2', folder, numbers)
    except ValueError:
        images = class_folder('v2', folder, val.classes)  # someone renamed them
    images.classes = val.classes
    return EvalSet('v2', images)


def _real(val: LabelledImages, file: Path) -> EvalSet:
    try:
        sets = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{file} is not JSON ({error}); it is real.json of ReaL.') from None
    if val.files is None:
        raise ValueError('--eval real: its labels are for the files of ImageNet; give --data.')
    rows, right = [], []
    for i, row in enumerate(val.rows):
        stem = val.files[row].stem
        digits = stem.rsplit('_', 1)[-1]
        if not digits.isdigit() or not 1 <= int(digits) <= len(sets):
            raise ValueError(
                f'{val.files[row]}: the {len(sets)} labels of {file} are for images with the names '
                'ILSVRC2012_val_00000001 and so on.'
            )
        if labels := sets[int(digits) - 1]:
            rows.append(i)
            right.append(list(labels))
    if not rows:
        raise ValueError(f'{file} has no label for any of the {len(val)} images.')
    return EvalSet('real', val.part(np.asarray(rows)), sets=right)


def _check_names(name: str, val: LabelledImages) -> None:
    wrong = [c for c in val.classes if not (c[0] == 'n' and c[1:].isdigit())]
    if wrong:
        raise ValueError(
            f"--eval {name}: its folders are WordNet names (n01440764) and the data's classes are "
            f'not ({wrong[0]}): it needs the names of the 1000 folders in train.'
        )
