"""Finding and checking a user's own annotations: one or two JSON files in COCO's layout."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_seg.datasets.folder_pairs import MASK_FOLDERS, SPLITS, SUFFIXES

_KEYS = ('images', 'annotations', 'categories')
_IMAGE_KEYS = ('id', 'file_name', 'width', 'height')
_SHARE = 5  # of a file without splits, one image in so many validates
_SEED = 0


@dataclass(frozen=True)
class CocoSource:
    """One split.

    Attributes:
        file: The annotations.
        images: Folder that its file names start from.
        drawn: Whether train and val are both drawn from this file.
        classes: Names in the order of the file's ``categories``.
        masks: Annotations with a mask.
        annotations: All of them.
    """

    file: Path
    images: Path
    drawn: bool
    classes: tuple[str, ...]
    masks: int
    annotations: int


def find_coco(folder: str | Path) -> dict[str, CocoSource]:
    """Find and check the annotations of ``train`` and ``val``.

    Files with train, val(id) or test in their name or that of their folder are splits; of a single
    file, one image in five validates. Images may lie beside the file, in the folder, in
    ``images/``, or in a folder of the split.

    Raises:
        FileNotFoundError: No folder, no annotations, or images that are not there.
        ValueError: A file that is not in COCO's layout, or files that do not fit together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder.')
    files = _split_files(folder)
    drawn = len(files) == 1
    found = {s: _source(folder, s, file, drawn) for s, file in files.items()}
    if drawn:
        source = next(iter(found.values()))
        found = {'train': source, 'val': source}
    train, val = found['train'], found['val']
    if train.classes != val.classes:
        raise ValueError(
            f'{val.file} names the categories {_some(val.classes)}, {train.file} '
            f'{_some(train.classes)}: both files have to list the same ones in the same order.'
        )
    return found


def has_annotations(folder: str | Path) -> bool:
    """Whether a folder's truth is in such files, and not in masks."""
    folders = [p for p in (*Path(folder).glob('*'), *Path(folder).glob('*/*')) if p.is_dir()]
    masks = [p for p in folders if p.name.lower() in MASK_FOLDERS]
    if any(f.suffix.lower() in SUFFIXES for p in masks for f in p.rglob('*')):
        return False
    return bool(_json_files(Path(folder)))


def _json_files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob('*.json'), *folder.glob('*/*.json')])
    return [f for f in files if f.name != 'dataset.json' and not f.name.startswith('.')]


def draw_validation(images: Iterable[Any]) -> set:
    """One image in five, at least one, by a fixed seed.

    Raises:
        ValueError: Fewer than two images.
    """
    images = sorted(images, key=str)
    if len(images) < 2:
        raise ValueError(f'{len(images)} image is too few to train and validate on; at least 2.')
    return set(random.Random(_SEED).sample(images, max(len(images) // _SHARE, 1)))


def _split_files(folder: Path) -> dict[str, Path]:
    """The file of each split; one alone is called ``all``."""
    files = _json_files(folder)
    if not files:
        raise FileNotFoundError(
            f'{folder} holds no annotations: put a .json file in the layout of COCO there, or '
            'annotations/train.json and annotations/val.json.'
        )
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_split_of(file), []).append(file)
    for split, several in found.items():  # COCO itself brings key points, captions and more
        if len(several) > 1:
            several[:] = [f for f in several if 'instances' in f.name.lower()] or several
        if len(several) > 1:
            raise ValueError(
                f'{folder}: {_some([str(f.relative_to(folder)) for f in several])} could all be '
                f'the annotations of {split}; keep one of them there.'
            )
    chosen = {split: several[0] for split, several in found.items()}
    if 'train' in chosen and 'val' not in chosen and 'test' in chosen:
        chosen['val'] = chosen['test']
    if {'train', 'val'} <= set(chosen):
        return {s: chosen[s] for s in ('train', 'val')}
    if len(chosen) == 1:
        return {'all': next(iter(chosen.values()))}
    raise ValueError(
        f'{folder} holds {_some([str(f.relative_to(folder)) for f in files])}; name the files '
        'train.json and val.json, or keep one, of which a fifth then validates.'
    )


def _split_of(file: Path) -> str:
    for text in (file.stem.lower(), file.parent.name.lower()):
        for split in SPLITS:
            if split in text:
                return split
    return 'all'


def _source(folder: Path, split: str, file: Path, drawn: bool) -> CocoSource:
    content = read_annotations(file)
    images = {image['id']: image for image in content['images']}
    names = [str(category['name']) for category in content['categories']]
    _check(file, content, images, names)
    place = _images_folder(folder, split, file, content['images'])
    missing = [i['file_name'] for i in content['images'] if not (place / i['file_name']).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{file} names {len(missing)} of {len(images)} images that are not in {place}, first '
            f'{missing[0]}; put them there or take them out of the file.'
        )
    if drawn:
        draw_validation(images)
    masks = sum(bool(a.get('segmentation')) for a in content['annotations'])
    return CocoSource(file, place, drawn, tuple(names), masks, len(content['annotations']))


def read_annotations(file: Path) -> dict:
    """The content of a file.

    Raises:
        ValueError: It is not in COCO's layout.
    """
    try:
        content = json.loads(file.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{file} is not JSON that can be read: {error}.') from error
    lacking = [k for k in _KEYS if not isinstance(content, dict) or k not in content]
    if lacking:
        raise ValueError(
            f'{file} is not in the layout of COCO: it has no {", ".join(lacking)} '
            '(cocodataset.org/#format-data).'
        )
    wanted = {
        'images': _IMAGE_KEYS,
        'annotations': ('id', 'image_id', 'category_id', 'bbox'),
        'categories': ('id', 'name'),
    }
    for key, fields in wanted.items():
        if not content[key] or not isinstance(content[key], list):
            raise ValueError(f'{file} has no {key}.')
        for number, entry in enumerate(content[key]):
            if absent := [f for f in fields if not isinstance(entry, dict) or f not in entry]:
                raise ValueError(f'{file}: {key}[{number}] has no {", ".join(absent)}.')
        twice = [i for i, n in Counter(str(e['id']) for e in content[key]).items() if n > 1]
        if twice:
            raise ValueError(
                f'{file}: {len(twice)} ids of {key} stand for several, first {twice[0]}; every one '
                'needs an id of its own.'
            )
    return content


def _check(file: Path, content: dict, images: dict, names: list[str]) -> None:
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise ValueError(f'{file} names the category {twice[0]!r} twice; give each its own name.')
    known = {category['id'] for category in content['categories']}
    for annotation in content['annotations']:
        where = f'{file}: annotation {annotation["id"]}'
        if annotation['image_id'] not in images:
            raise ValueError(f'{where} is of image {annotation["image_id"]}, which is not listed.')
        if annotation['category_id'] not in known:
            raise ValueError(
                f'{where} has the category {annotation["category_id"]}; listed are '
                f'{_some([str(k) for k in sorted(known, key=lambda k: (isinstance(k, str), k))])}.'
            )
        box = annotation['bbox']
        numbers = isinstance(box, list) and all(isinstance(x, int | float) for x in box)
        if not numbers or len(box) != 4:
            raise ValueError(f'{where} has bbox={box}, which is not [x, y, width, height].')
        parts = annotation.get('segmentation')
        if isinstance(parts, list) and any(not isinstance(p, list) or len(p) < 6 for p in parts):
            raise ValueError(
                f'{where} has a segmentation that is no list of polygons [x, y, x, y, x, y, ...].'
            )


def _images_folder(folder: Path, split: str, file: Path, images: list[dict]) -> Path:
    own = SPLITS.get(split, ())
    places = [file.parent, folder, folder / 'images']
    places += [p / name for p in (folder, folder / 'images') for name in (*own, 'all')]
    places += [folder / word for word in file.stem.split('_')]
    places += sorted(p for p in folder.iterdir() if p.is_dir())
    # An image may be gone; a folder that has none of them is not theirs.
    for place in places:
        if any((place / image['file_name']).is_file() for image in images[:100]):
            return place
    raise FileNotFoundError(
        f'{file} names {images[0]["file_name"]}, which is not in {folder}, beside the file, in '
        'images/ or in a folder of the split: put the images into one of these.'
    )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:6]) + (', ...' if len(names) > 6 else '')
