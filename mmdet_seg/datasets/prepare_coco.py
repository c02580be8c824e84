"""Whether a data set with COCO's annotations that was laid out is whole."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from mmdet_seg.datasets.prepare_layouts import CocoSplit, Layout
from mmdet_seg.datasets.prepare_verify import is_whole, some_of

THINGS, SEGMENTS = 80, 133  # categories of the two kinds of file


def verify_coco(layout: Layout, root: Path, done: Any, advance: Callable[..., None]) -> None:
    """Add what is missing or broken to ``done.problems``, and the counts to ``done.counts``.

    Looked at are both files of annotations against each other and against the images: their
    number, sizes and last bytes; categories; boxes that lie outside; panoptic maps that lack.

    Args:
        layout: What should be there, with :class:`CocoSplit`.
        root: Where it lies.
        done: A :class:`mmdet_seg.datasets.prepare.Prepared`.
        advance: Called once per image, and before with the total.
    """
    jobs: list[tuple[Path, tuple[int, int]]] = []
    for name, split in layout.splits.items():
        done.counts[name] = _verify_split(root, name, split, done.problems, jobs)
    if jobs:
        advance(len(jobs))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(lambda job: _image(*job), jobs):
            if problem:
                done.problems.append(problem)
            advance()


def _verify_split(root: Path, name: str, split: CocoSplit, problems: list[str], jobs: list) -> int:
    """Number of images; adds those that have to be opened, and maps, to ``jobs``."""
    there = {p.name for p in (root / split.images).glob('*.jpg')}
    found = _read(root / split.instances, THINGS, problems)
    if found is None:
        return len(there)
    images = {image['id']: image for image in found['images']}
    names = {image['file_name'] for image in images.values()}
    if len(there & names) != split.count or len(names) != split.count:
        problems.append(
            f'{name}: {len(there & names)} images in {root / split.images}, {split.count} '
            f'published, {len(names)} in {split.instances}.'
        )
    if missing := sorted(names - there):
        problems.append(
            f'{root / split.images}: {some_of(missing)} missing, {len(missing)} in all.'
        )
    _boxes(split.instances, found, images, problems)
    if (root / split.panoptic).exists():
        _segments(root, split, names, problems, jobs)
    for image in images.values():
        if image['file_name'] in there:
            size = (image['width'], image['height'])
            jobs.append((root / split.images / image['file_name'], size))
    return len(there & names)


def _read(path: Path, categories: int, problems: list[str]) -> dict[str, Any] | None:
    """A file of annotations; None where there is none to look at."""
    if not path.is_file():
        problems.append(f'{path} is missing.')
        return None
    try:
        found = json.loads(path.read_bytes())
        number = len(found['categories'])
        complete = all('file_name' in i and 'id' in i for i in found['images'])
        complete &= all('image_id' in a for a in found['annotations'])
    except (ValueError, KeyError, TypeError) as error:
        problems.append(f'{path} is no file of COCO annotations ({error}); get it again.')
        return None
    if not complete:
        problems.append(f'{path} is no file of COCO annotations; get it again.')
        return None
    if number != categories:
        problems.append(f'{path}: {number} categories, {categories} published.')
    return found


def _boxes(name: str, found: dict[str, Any], images: dict[int, dict], problems: list[str]) -> None:
    categories = {category['id'] for category in found['categories']}
    for annotation in found['annotations']:
        image = images.get(annotation['image_id'])
        if image is None:
            problems.append(
                f'{name}: annotation {annotation.get("id")} is of image {annotation["image_id"]}, '
                'which the file does not have.'
            )
            continue
        x, y, w, h = annotation.get('bbox') or (0, 0, -1, -1)
        # Published boxes are rounded to a hundredth of a pixel.
        inside = min(x, y) >= -1 and x + w <= image['width'] + 1 and y + h <= image['height'] + 1
        if annotation.get('category_id') not in categories or min(w, h) < 0 or not inside:
            problems.append(
                f'{name}: annotation {annotation.get("id")}: box {annotation.get("bbox")} of '
                f'category {annotation.get("category_id")} in an image of '
                f'{image["width"]} x {image["height"]}.'
            )


def _segments(
    root: Path, split: CocoSplit, names: set[str], problems: list[str], jobs: list
) -> None:
    found = _read(root / split.panoptic, SEGMENTS, problems)
    if found is None:
        return
    sizes = {image['id']: (image['width'], image['height']) for image in found['images']}
    folder = root / split.panoptic.removesuffix('.json')
    there = {p.name for p in folder.glob('*.png')}
    listed = {a['file_name']: a['image_id'] for a in found['annotations']}
    if missing := sorted(listed.keys() - there):
        problems.append(f'{folder}: {some_of(missing)} missing, {len(missing)} in all.')
    if len(listed) != len(names):
        problems.append(f'{split.panoptic}: {len(listed)} images, {len(names)} with instances.')
    jobs += [(folder / n, sizes.get(i)) for n, i in listed.items() if n in there]


def _image(path: Path, size: tuple[int, int] | None) -> str | None:
    """What is wrong with an image or a map; None when nothing is."""
    if not is_whole(path):
        return f'{path} ends too early; get it again.'
    try:
        with Image.open(path) as opened:
            found = opened.size
    except (OSError, SyntaxError, ValueError) as error:
        return f'{path}: cannot be read ({error}).'
    if found != size:
        return f'{path} is {found[0]} x {found[1]} pixels, its annotations say {size}.'
    return None
