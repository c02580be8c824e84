"""Pascal Context's ``trainval_merged.json`` to label maps of its 59 classes and background.

The file holds, per image, one run-length encoded region per category; the 59 categories that are
evaluated get 1 to 59 in the order of their numbers, 0 is everything else.
"""

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from pycocotools import mask as run_lengths

# Category numbers of the 59 classes in the whole set's 459 (Mottaghi et al., CVPR 2014).
CATEGORIES = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
_LABELS = {category: label for label, category in enumerate(CATEGORIES, start=1)} | {0: 0}


class ContextLabels:
    """The label maps of a ``trainval_merged.json``.

    Args:
        content: The file's bytes.

    Raises:
        ValueError: It is not that file.
    """

    def __init__(self, content: bytes) -> None:
        try:
            data = json.loads(content)
            self.images = [x for x in data['images'] if x['phase'] in ('train', 'val')]
            self._regions = defaultdict(list)
            for region in data['annos_segmentation']:
                self._regions[region['image_id']].append(region)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                'trainval_merged.json is not whole, or not the one of Pascal in Detail '
                f'({type(error).__name__}: {error}); download it again.'
            ) from error

    def lists(self) -> dict[str, list[str]]:
        """Names per split, sorted."""
        return {
            split: sorted(_stem(x) for x in self.images if x['phase'] == split)
            for split in ('train', 'val')
        }

    def maps(self) -> Iterator[tuple[str, 'LabelMap']]:
        """Name and label map of every image."""
        for image in self.images:
            yield _stem(image), LabelMap(image, self._regions[image['image_id']])


class LabelMap:
    """One image's regions; :meth:`draw` is what takes time."""

    def __init__(self, image: dict, regions: list[dict]) -> None:
        self.image, self.regions = image, regions

    def draw(self) -> np.ndarray:
        """(H, W) uint8, 0 to 59.

        Raises:
            ValueError: A category or the size of a region is not as it should be.
        """
        shape = (self.image['height'], self.image['width'])
        label = np.zeros(shape, np.uint8)
        for region in self.regions:
            category = region['category_id']
            if category not in _LABELS:
                raise ValueError(f'category {category} is not one of the 59 classes')
            inside = run_lengths.decode(region['segmentation']).astype(bool)
            if inside.shape != shape:
                raise ValueError(f'a region of {inside.shape} in an image of {shape}')
            label[inside] = _LABELS[category]
        return label


def _stem(image: dict) -> str:
    return image['file_name'].rsplit('.', 1)[0]
