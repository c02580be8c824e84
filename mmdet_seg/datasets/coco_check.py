"""Look through a user's own images with annotations in COCO's layout."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet_seg.datasets.coco_annotations import (
    CocoSource,
    draw_validation,
    find_coco,
    read_annotations,
)
from mmdet_seg.datasets.folder_check import each, list_names, list_sizes, oriented_size

SPLITS = ('train', 'val')


@dataclass
class CocoReport:
    """What :func:`check_coco` found.

    Attributes:
        folder: That was looked through.
        sources: ``train`` and ``val``.
        images: Split to the number of its images.
        empty: Split to the number of those without a box.
        boxes: Split to class to boxes, those that the detectors leave out not counted.
        of_images: Class to the number of images that show it.
        crowds: Annotations of several at once; they are neither learned nor missed.
        left_out: One name per annotation whose box has no pixel in its image.
        broken: One sentence per image that cannot be read or is not as its file says.
        sizes: (width, height) to the number of images.
    """

    folder: Path
    sources: dict[str, CocoSource]
    images: Counter = field(default_factory=Counter)
    empty: Counter = field(default_factory=Counter)
    boxes: dict[str, Counter] = field(default_factory=lambda: {s: Counter() for s in SPLITS})
    of_images: Counter = field(default_factory=Counter)
    crowds: int = 0
    left_out: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)

    @property
    def masks(self) -> bool:
        """Whether every annotation has a mask."""
        return all(s.masks == s.annotations for s in self.sources.values())

    def lines(self) -> list[str]:
        """The report as text."""
        train = self.sources['train']
        files = 'a fifth drawn' if train.drawn else 'as in the files'
        counts = ', '.join(f'{s} {self.images[s]} ({self.empty[s]} empty)' for s in SPLITS)
        text = [
            f'{self.folder}: {sum(self.images.values())} images with '
            f'{"boxes and masks" if self.masks else "boxes"}: {counts}; {files}.',
            f'Sizes: {list_sizes(self.sizes)}.',
            f'  {"class":<24} {"train boxes":>11} {"val boxes":>10} {"images":>7}',
        ]
        for name in train.classes:
            text.append(
                f'  {name:<24} {self.boxes["train"][name]:>11} {self.boxes["val"][name]:>10} '
                f'{self.of_images[name]:>7}'
            )
        for split, what in (('train', 'learn from'), ('val', 'be scored by')):
            if none := [n for n in train.classes if not self.boxes[split][n]]:
                text.append(f'No box to {what} in {split}: {list_names(none)}')
        if self.crowds:
            text.append(f'{self.crowds} annotations of crowds (iscrowd), not learned from.')
        if self.left_out:
            text.append(
                f'Left out, {len(self.left_out)} annotations whose box has no pixel in its image: '
                f'{list_names(self.left_out)}'
            )
        return text + [f'Broken: {sentence}' for sentence in self.broken]


def check_coco(folder: str | Path) -> CocoReport:
    """Read all images and annotations of a folder; nothing in it is changed.

    Raises:
        FileNotFoundError: See :func:`mmdet_seg.datasets.coco_annotations.find_coco`.
        ValueError: Likewise.
    """
    folder = Path(folder)
    report = CocoReport(folder, find_coco(folder))
    sources = report.sources
    for split in SPLITS[: 1 if sources['train'].drawn else 2]:
        source = sources[split]
        content = read_annotations(source.file)
        held_out = draw_validation(i['id'] for i in content['images']) if source.drawn else ()
        of_image: dict[Any, list[dict]] = {image['id']: [] for image in content['images']}
        for annotation in content['annotations']:
            of_image[annotation['image_id']].append(annotation)
        names = {c['id']: str(c['name']) for c in content['categories']}
        for image in content['images']:
            part = 'val' if image['id'] in held_out else split
            _count(report, part, image, of_image[image['id']], names)
        for image, size in each(
            lambda image, place=source.images: _size(place / image['file_name']), content['images']
        ):
            _compare(report, source.images / image['file_name'], image, size)
    return report


def _count(
    report: CocoReport, split: str, image: dict, annotations: list[dict], names: dict
) -> None:
    report.images[split] += 1
    shown = Counter()
    for annotation in annotations:
        if not _has_pixels(annotation['bbox'], image):
            report.left_out.append(f'{annotation["id"]} ({image["file_name"]})')
        elif annotation.get('iscrowd'):
            report.crowds += 1
        else:
            shown[names[annotation['category_id']]] += 1
    report.empty[split] += not shown
    report.boxes[split].update(shown)
    report.of_images.update(shown.keys())


def _has_pixels(box: list[float], image: dict) -> bool:
    """mmdet's own rule: a pixel wide and high, and not beside the image."""
    x, y, width, height = box
    inside = min(x + width, image['width']) > max(x, 0)
    inside &= min(y + height, image['height']) > max(y, 0)
    return inside and width >= 1 and height >= 1


def _size(file: Path) -> tuple[int, int] | str:
    try:
        return oriented_size(file.read_bytes(), file)
    except ValueError as error:
        return str(error)


def _compare(report: CocoReport, file: Path, image: dict, size: tuple[int, int] | str) -> None:
    said = (image['width'], image['height'])
    if isinstance(size, str):
        report.broken.append(size)
        return
    report.sizes[size] += 1
    if size != said:
        turned = size == said[::-1]
        report.broken.append(
            f'{file} is {size[0]} x {size[1]} pixels{" as it is looked at" * turned}, the '
            f'annotations are of {said[0]} x {said[1]}.'
        )
