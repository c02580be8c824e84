"""What is shown of one image: truth and prediction, whatever the model predicts.

Shapes: (H, W) pixels of the image, K instances, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VOID = 255  # in label maps
OFFSET = 1000  # mmdet's panoptic maps hold class + OFFSET * instance
SHOWN = 0.3  # least score of an instance that is drawn


@dataclass
class Panel:
    """One picture.

    Attributes:
        picture: (H, W, 3) uint8.
        title: Above it, in the first row only unless ``every_row``.
        every_row: Whether the title says something about this image.
    """

    picture: np.ndarray
    title: str
    every_row: bool = False


def panels(sample: Any, image: np.ndarray, meta: dict) -> tuple[list[Panel], set[int]]:
    """Pictures of one image in a row, and the classes that they show.

    Args:
        sample: mmseg's or mmdet's data sample, with prediction and truth.
        image: (H, W, 3) uint8 RGB.
        meta: Of the data set, with ``classes`` and ``palette``.
    """
    palette = np.array(meta['palette'], dtype=np.uint8)
    shown = [Panel(image, 'image')]
    if 'pred_panoptic_seg' in sample:
        panoptic = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
        truth, classes = _true_segments(sample, image, meta)
        shown += [truth] if truth else []
        shown.append(Panel(draw_segments(image, panoptic, palette), 'prediction'))
        return shown, classes | {int(i) for i in np.unique(panoptic % OFFSET) if i < len(palette)}
    if 'pred_instances' in sample:
        instances = [('prediction', as_arrays(sample.pred_instances))]
        if 'gt_instances' in sample:
            instances.insert(0, ('truth', as_arrays(sample.gt_instances)))
        for title, found in instances:
            picture = draw_instances(image, found, meta['classes'], palette)
            shown.append(Panel(picture, title))
        kept = [found['labels'][found['scores'] >= SHOWN] for _, found in instances]
        return shown, {int(i) for labels in kept for i in labels}
    label = sample.pred_sem_seg.data[0].cpu().numpy()
    truth = sample.gt_sem_seg.data[0].cpu().numpy()
    valid = truth != VOID
    wrong = np.where((valid & (truth != label))[..., None], (220, 30, 30), image // 3 + 120)
    right = 100 * (truth == label)[valid].mean() if valid.any() else float('nan')
    shown += [
        Panel(overlay(image, truth, palette), 'truth'),
        Panel(overlay(image, label, palette), 'prediction'),
        Panel(wrong.astype(np.uint8), f'{right:.1f} % right', every_row=True),
    ]
    return shown, {int(i) for i in (*np.unique(truth[valid]), *np.unique(label))}


def _true_segments(sample: Any, image: np.ndarray, meta: dict) -> tuple[Panel | None, set[int]]:
    """The truth of a panoptic sample: its instances over its label map."""
    palette = np.array(meta['palette'], dtype=np.uint8)
    picture, classes = image, set()
    if 'gt_sem_seg' in sample:
        label = sample.gt_sem_seg.sem_seg[0].cpu().numpy()
        picture = overlay(image, label, palette)
        classes |= {int(i) for i in np.unique(label) if i < len(palette)}
    if 'gt_instances' in sample:
        found = as_arrays(sample.gt_instances)
        picture = draw_instances(picture, found, meta['classes'], palette)
        classes |= {int(i) for i in found['labels']}
    return (None if picture is image else Panel(picture, 'truth')), classes


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Blend class colours over an image.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) class numbers; those without a colour (255) leave the image as it is.
        palette: (C, 3) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    known = label < len(palette)
    colours = palette[np.where(known, label, 0)]
    mixed = (0.4 * image + 0.6 * colours).astype(np.uint8)
    return np.where(known[..., None], mixed, image)


def as_arrays(instances: Any) -> dict[str, np.ndarray]:
    """mmdet's instances on the host.

    Returns:
        ``bboxes`` (K, 4) x1 y1 x2 y2, ``labels`` (K,), ``scores`` (K,), 1 where there are none, and
        ``masks`` (K, H, W) bool, where the model gives masks.
    """
    boxes = instances.bboxes
    boxes = boxes.tensor if hasattr(boxes, 'tensor') else boxes
    found = {'bboxes': boxes.cpu().numpy(), 'labels': instances.labels.cpu().numpy()}
    scores = instances.get('scores')
    found['scores'] = np.ones(len(boxes)) if scores is None else scores.cpu().numpy()
    masks = instances.get('masks')
    if masks is not None:  # mmdet's own class for the truth, a tensor for predictions
        masks = masks.masks if hasattr(masks, 'masks') else masks.cpu().numpy()
        found['masks'] = np.asarray(masks).astype(bool)
    return found


def draw_instances(
    image: np.ndarray,
    instances: dict[str, np.ndarray],
    classes: Sequence[str],
    palette: np.ndarray,
    least: float = SHOWN,
) -> np.ndarray:
    """Masks, boxes, class names and scores over an image.

    Args:
        image: (H, W, 3) uint8.
        instances: See :func:`as_arrays`.
        classes: Names.
        palette: (C, 3) uint8.
        least: Instances with a lower score are left out.

    Returns:
        (H, W, 3) uint8.
    """
    scores, labels = instances['scores'], instances['labels']
    order = [i for i in np.argsort(scores, kind='stable') if scores[i] >= least]  # best on top
    picture = image.copy()
    for i in order if 'masks' in instances else ():
        mask, colour = instances['masks'][i], palette[labels[i]]
        picture[mask] = (0.5 * picture[mask] + 0.5 * colour).astype(np.uint8)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    size = max(9, round(min(image.shape[:2]) / 30))
    font = ImageFont.load_default(size)
    for i in order:
        box, colour = instances['bboxes'][i], tuple(int(x) for x in palette[labels[i]])
        x1, y1, x2, y2 = (float(v) for v in box)
        corners = (x1, y1, max(x2, x1), max(y2, y1))
        draw.rectangle(corners, outline=colour, width=max(1, size // 8))
        text = classes[labels[i]] + (f' {scores[i]:.2f}' if scores[i] < 1 else '')
        place = (max(x1, 0), max(y1 - size - 2, 0))
        draw.rectangle(draw.textbbox(place, text, font=font), fill=colour)
        dark = sum(colour) > 3 * 140
        draw.text(place, text, font=font, fill=(0, 0, 0) if dark else (255, 255, 255))
    return np.asarray(canvas)


def draw_segments(image: np.ndarray, panoptic: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Panoptic segments in their classes' colours, with white borders.

    Args:
        image: (H, W, 3) uint8.
        panoptic: (H, W), class + :data:`OFFSET` x instance; classes without a colour are void.
        palette: (C, 3) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    picture = overlay(image, panoptic % OFFSET, palette)
    border = np.zeros(panoptic.shape, bool)
    border[:, 1:] |= panoptic[:, 1:] != panoptic[:, :-1]
    border[1:] |= panoptic[1:] != panoptic[:-1]
    picture[border] = 255
    return picture
