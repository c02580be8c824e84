"""Tiny data sets in the layouts that ``configs/_base_/data`` expects."""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {'train': 3, 'val': 2}
SIZE = (84, 112)  # height, width
# Where an image and its labels lie, and the labels' values: what the data sets' authors ship.
LAYOUTS = {
    'coco_stuff164k': (
        'images/{split}2017/{i:012}.jpg',
        'annotations/{split}2017/{i:012}_labelTrainIds.png',
        (0, 170, 255),
    ),
    'cityscapes': (
        'leftImg8bit/{split}/ulm/ulm_{i:06}_000019_leftImg8bit.png',
        'gtFine/{split}/ulm/ulm_{i:06}_000019_gtFine_labelTrainIds.png',
        (0, 18, 255),
    ),
    'pascal_context': (
        'JPEGImages/2008_{i:06}.jpg',
        'SegmentationClassContext/2008_{i:06}.png',
        (0, 1, 59),
    ),
    'voc12': ('JPEGImages/2007_{i:06}.jpg', 'SegmentationClass/2007_{i:06}.png', (0, 20, 255)),
}
LISTS = {
    'pascal_context': 'ImageSets/SegmentationContext/{split}.txt',
    'voc12': 'ImageSets/Segmentation/{split}.txt',
}


def write_layout(name: str, root: Path) -> Path:
    """Write a set under ``root``; its labels hold the lowest, the highest and the odd value."""
    image, label, values = LAYOUTS[name]
    rng = np.random.default_rng(0)
    number = 0
    for split, count in SPLITS.items():
        stems = []
        for _ in range(count):
            number += 1
            paths = [root / x.format(split=split, i=number) for x in (image, label)]
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(paths[0])
            bands = np.repeat(np.array(values, np.uint8), -(-SIZE[0] // len(values)))[: SIZE[0]]
            Image.fromarray(np.tile(bands[:, None], SIZE[1])).save(paths[1])
            stems.append(paths[0].stem)
        if name in LISTS:
            listed = root / LISTS[name].format(split=split)
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text(''.join(f'{s}\n' for s in stems))
    return root
