"""What ``tools/infer.py`` writes for an image: labels, instances or panoptic segments.

Shapes: (H, W) pixels of an image, K instances, C classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from mmdet_seg.engine.prediction_panels import (
    OFFSET,
    as_arrays,
    draw_instances,
    draw_segments,
    overlay,
)


class LabelFiles:
    """A label PNG, a colour PNG and an overlay for each image.

    Args:
        out: Folder to write to.
        classes: Names.
        palette: (C, 3) uint8.
    """

    folders: Sequence[str] = ('labels', 'colors', 'overlays')
    says = 'labels/ (class numbers from 0, as in classes.txt), colors/, overlays/'

    def __init__(self, out: Path, classes: Sequence[str], palette: np.ndarray) -> None:
        self.out, self.classes, self.palette = out, classes, palette
        for folder in self.folders:
            (out / folder).mkdir(parents=True, exist_ok=True)
        (out / 'classes.txt').write_text(''.join(f'{name}\n' for name in classes))

    def add(self, name: str, path: Path, image: np.ndarray, sample: Any) -> None:
        """Write one image's.

        Args:
            name: Stem of the files.
            path: Of the image.
            image: (H, W, 3) uint8.
            sample: What the model returned.
        """
        label = as_labels(sample, len(self.classes))
        self._save('labels', name, label)
        self._save('colors', name, self.palette[label])
        self._save('overlays', name, overlay(image, label, self.palette))

    def close(self) -> None:
        """Write what belongs to all images together."""

    def _save(self, folder: str, name: str, picture: np.ndarray) -> None:
        Image.fromarray(picture).save(self.out / folder / f'{name}.png')


class _CocoFiles(LabelFiles):
    """One JSON file for all images, in COCO's layout; categories count from 1."""

    json_name: str

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        categories = [{'id': i, 'name': name} for i, name in enumerate(self.classes, start=1)]
        self.content: dict = {'images': [], 'annotations': [], 'categories': categories}

    def _image(self, path: Path, image: np.ndarray) -> int:
        number, (height, width) = len(self.content['images']) + 1, image.shape[:2]
        entry = {'id': number, 'file_name': str(path), 'height': height, 'width': width}
        self.content['images'].append(entry)
        return number

    def close(self) -> None:
        (self.out / self.json_name).write_text(json.dumps(self.content) + '\n')


class InstanceFiles(_CocoFiles):
    """Overlays with boxes, masks, names and scores, and ``predictions.json``.

    Args:
        args: As of :class:`LabelFiles`.
        least: Instances with a lower score are left out.
    """

    folders = ('overlays',)
    says = 'overlays/, predictions.json (COCO layout, with scores)'
    json_name = 'predictions.json'

    def __init__(self, *args: Any, least: float) -> None:
        super().__init__(*args)
        self.least = least

    def add(self, name: str, path: Path, image: np.ndarray, sample: Any) -> None:
        found = as_arrays(sample.pred_instances)
        number = self._image(path, image)
        for i in np.argsort(-found['scores'], kind='stable'):
            if found['scores'][i] < self.least:
                break
            x1, y1, x2, y2 = (round(float(v), 2) for v in found['bboxes'][i])
            entry = {
                'id': len(self.content['annotations']) + 1,
                'image_id': number,
                'category_id': int(found['labels'][i]) + 1,
                'bbox': [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                'area': round((x2 - x1) * (y2 - y1), 2),
                'iscrowd': 0,
                'score': round(float(found['scores'][i]), 4),
            }
            if 'masks' in found:
                mask = np.asfortranarray(found['masks'][i].astype(np.uint8))
                code = run_lengths.encode(mask)
                entry['segmentation'] = {**code, 'counts': code['counts'].decode()}
                entry['area'] = int(mask.sum())
            self.content['annotations'].append(entry)
        picture = draw_instances(image, found, self.classes, self.palette, self.least)
        self._save('overlays', name, picture)


class SegmentFiles(_CocoFiles):
    """COCO's panoptic PNGs, an overlay each, and ``panoptic.json``."""

    folders = ('panoptic', 'overlays')
    says = "panoptic/ and panoptic.json (COCO's layout), overlays/"
    json_name = 'panoptic.json'

    def add(self, name: str, path: Path, image: np.ndarray, sample: Any) -> None:
        segments = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
        number = self._image(path, image)
        numbers = np.zeros(segments.shape, np.uint32)  # 0 is void
        infos: list[dict] = []
        for value in np.unique(segments):
            if value % OFFSET >= len(self.classes):
                continue
            numbers[segments == value] = len(infos) + 1
            infos.append(
                {
                    'id': len(infos) + 1,
                    'category_id': int(value % OFFSET) + 1,
                    'area': int((segments == value).sum()),
                    'iscrowd': 0,
                }
            )
        entry = {'image_id': number, 'file_name': f'{name}.png', 'segments_info': infos}
        self.content['annotations'].append(entry)
        colors = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1)
        self._save('panoptic', name, colors.astype(np.uint8))
        self._save('overlays', name, draw_segments(image, segments, self.palette))


def as_labels(sample: Any, num_classes: int) -> np.ndarray:
    """(H, W) class numbers from 0 of a segmentor's result, uint8 where they fit."""
    label = sample.pred_sem_seg.data[0].cpu().numpy()
    return label.astype(np.uint8 if num_classes < 256 else np.uint16)


def files_for(
    sample: Any, out: Path, classes: Sequence[str], palette: np.ndarray, least: float
) -> LabelFiles:
    """What suits a model, by what it returned for the first image."""
    if 'pred_panoptic_seg' in sample:
        return SegmentFiles(out, classes, palette)
    if 'pred_instances' in sample:
        return InstanceFiles(out, classes, palette, least=least)
    return LabelFiles(out, classes, palette)
