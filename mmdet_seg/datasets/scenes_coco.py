"""COCO's annotation layout for scenes.

Masks are stored as uncompressed run lengths, the form in which COCO's own files store crowds: it
is exact, also for objects that others cut in pieces or make holes in, and polygons are not.

Source:
    https://cocodataset.org/#format-data
"""

from collections.abc import Iterable

import numpy as np

from mmdet_seg.datasets.scene_classes import CLASSES, COCO_IDS, COCO_SUPERCATEGORIES
from mmdet_seg.datasets.scenes import Instance


def run_lengths(mask: np.ndarray) -> dict:
    """A mask (H, W) bool as COCO's uncompressed RLE: by columns, background first."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {'size': list(mask.shape), 'counts': counts}


def annotate(instance: Instance) -> dict:
    """One entry of ``annotations``, still without ``id`` and ``image_id``."""
    x0, y0, x1, y1 = instance.box
    return {
        'category_id': COCO_IDS[CLASSES[instance.class_id - 1]],
        'bbox': [x0, y0, x1 - x0, y1 - y0],
        'area': int(instance.mask.sum()),
        'iscrowd': int(instance.crowd),
        'segmentation': run_lengths(instance.mask),
    }


def coco_file(images: Iterable[tuple[str, tuple[int, int], list[dict]]], description: str) -> dict:
    """The content of an ``instances_*.json``.

    Args:
        images: File name, (height, width) and annotations of each image, in order; ids are given
            here, from 1.
        description: What the file holds.
    """
    content: dict = {
        'info': {'description': description, 'version': '1.0'},
        'licenses': [],
        'images': [],
        'annotations': [],
        'categories': [
            {'id': number, 'name': name, 'supercategory': COCO_SUPERCATEGORIES[name]}
            for name, number in COCO_IDS.items()
        ],
    }
    for image_id, (file_name, (height, width), annotations) in enumerate(images, start=1):
        content['images'].append(
            {'id': image_id, 'file_name': file_name, 'height': height, 'width': width}
        )
        for annotation in annotations:
            number = len(content['annotations']) + 1
            content['annotations'].append({'id': number, 'image_id': image_id, **annotation})
    return content
