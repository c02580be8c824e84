"""Which files of a folder are images, which are their masks, and how they are split."""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'photos', 'photo', 'jpegimages')
MASK_FOLDERS = (
    'masks', 'mask', 'labels', 'label', 'annotations', 'annotation', 'segmentations',
    'segmentation', 'segmentationclass', 'gt',
)  # fmt: skip
SPLITS = {
    'train': ('train', 'training', 'train2017'),
    'val': ('val', 'valid', 'validation', 'val2017'),
    'test': ('test', 'testing'),
}
SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'}
# What people append to the names of masks, or of images beside them.
_APPENDED = re.compile(
    r'[_-](masks?|labels?|seg|segmentation|gt|annotation|ann|image|img|rgb)$', re.IGNORECASE
)


@dataclass
class Pairs:
    """Images with their masks, as paths relative to the folder.

    Attributes:
        splits: ``train`` and ``val`` where the folder has them, else one entry ``all``.
        no_mask: Images without a mask.
        no_image: Masks without an image.
        clashes: Several files that claim the same partner, left out; one sentence each.
        notes: What else a person should know.
    """

    splits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    no_mask: list[str] = field(default_factory=list)
    no_image: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_pairs(folder: Path) -> Pairs:
    """Pair the images and masks of ``images/`` and ``masks/``, with or without train and val.

    Both ``images/train`` and ``train/images`` are understood, names in any case, and masks that
    are called as their image with ``_mask``, ``_label`` and the like appended.

    Raises:
        FileNotFoundError: There is no such folder, or nothing in it is called images or masks.
        ValueError: Two folders could be meant, or nothing pairs up.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder.')
    pairs = Pairs()
    for split, images, masks in _folders(folder, pairs):
        pairs.splits.setdefault(split, [])
        _match(folder, images, masks, split, pairs)
    if 'train' in pairs.splits and 'val' not in pairs.splits and 'test' in pairs.splits:
        pairs.splits['val'] = pairs.splits.pop('test')
        pairs.notes.append('There is no val: test takes its place.')
    elif pairs.splits.pop('test', None):
        pairs.notes.append('test is left alone; validation uses val.')
    if not any(pairs.splits.values()):
        shown = [*pairs.no_mask[:1], *pairs.no_image[:1]]
        raise ValueError(
            f'{folder}: no image has a mask of the same name'
            + (f' (as {" and ".join(shown)})' if shown else '')
            + '; name them alike, as images/a.jpg and masks/a.png or masks/a_mask.png.'
        )
    return pairs


def draw_splits(
    pairs: list[tuple[str, str]], seed: int, val_share: float
) -> dict[str, list[tuple[str, str]]]:
    """Split sorted pairs by a seed; at least one falls to either side.

    Raises:
        ValueError: There are fewer than two pairs.
    """
    if len(pairs) < 2:
        raise ValueError(f'{len(pairs)} pair is too few to train and validate on; at least 2.')
    shuffled = sorted(pairs)
    random.Random(seed).shuffle(shuffled)
    num_val = min(max(round(len(pairs) * val_share), 1), len(pairs) - 1)
    return {'train': sorted(shuffled[num_val:]), 'val': sorted(shuffled[:num_val])}


def _folders(folder: Path, pairs: Pairs) -> list[tuple[str, Path, Path]]:
    """(split, images, masks) of every split."""
    images, masks = _child(folder, IMAGE_FOLDERS), _child(folder, MASK_FOLDERS)
    if images and masks:
        found = [(s, _child(images, n), _child(masks, n)) for s, n in SPLITS.items()]
        found = [x for x in found if x[1] and x[2]]
        if not found:
            return [('all', images, masks)]
        for top in (images, masks):
            if stray := [p for p in top.iterdir() if p.suffix.lower() in SUFFIXES]:
                pairs.notes.append(f'{len(stray)} files of {top.name}/ lie outside its splits.')
        return found
    found = []
    for split, names in SPLITS.items():
        if inner := _child(folder, names):
            images, masks = _child(inner, IMAGE_FOLDERS), _child(inner, MASK_FOLDERS)
            if images and masks:
                found.append((split, images, masks))
    if not found:
        there = ', '.join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or 'no folders'
        raise FileNotFoundError(
            f'{folder} holds {there}; it needs images/ and masks/ (imgs, photos, labels and '
            'annotations will do), with train/ and val/ in them if you like.'
        )
    return found


def _child(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower() in names)
    if len(found) > 1:
        raise ValueError(
            f'{folder} holds {" and ".join(p.name for p in found)}; keep one of them there.'
        )
    return found[0] if found else None


def _files(folder: Path) -> dict[str, list[Path]]:
    """Path below ``folder`` without suffix: the files of that name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob('*')):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith('.') and path.is_file():
            files.setdefault(path.relative_to(folder).with_suffix('').as_posix(), []).append(path)
    return files


def _match(folder: Path, image_dir: Path, mask_dir: Path, split: str, pairs: Pairs) -> None:
    images, masks = _files(image_dir), _files(mask_dir)
    partners = {key: masks.pop(key) for key in list(images) if key in masks}
    bare = {_APPENDED.sub('', key): key for key in images if key not in partners}
    for key in list(masks):
        image = bare.get(_APPENDED.sub('', key))
        if image is not None:
            partners.setdefault(image, []).extend(masks.pop(key))

    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    for key, paths in images.items():
        found = partners.get(key, [])
        if len(paths) > 1 or len(found) > 1:
            several = ', '.join(name(p) for p in (*paths, *found))
            pairs.clashes.append(f'{several}: which belong together? Keep one image and one mask.')
        elif found:
            pairs.splits[split].append((name(paths[0]), name(found[0])))
        else:
            pairs.no_mask.append(name(paths[0]))
    pairs.no_image += [name(p) for paths in masks.values() for p in paths]
