"""Pictures of a classifier: what it is surest of, and which classes it takes for which."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmdet_seg.engine.prediction_panels import Panel
from mmdet_seg.probes.classify_evaluate import Outcome
from mmdet_seg.probes.contact_sheet import contact_sheet
from mmdet_seg.probes.labelled_images import LabelledImages

_INK = '#333333'
_COLUMNS = 6
_LABELLED = 40  # classes; of more, names would not be read
_SIDE = 180


def draw(
    folder: Path, images: LabelledImages, outcome: Outcome, count: int
) -> list[dict[str, Any]]:
    """Write PNGs and return what results keep of them.

    Args:
        folder: Of the run.
        images: That were tested.
        outcome: Of the best classifier.
        count: Images of each sheet.
    """
    wrong = outcome.predictions != images.labels
    found = []
    for kind, title, which in (
        ('worst', 'Surest mistakes: label > prediction, share of the score', wrong),
        ('best', 'Surest hits: label, share of the score', ~wrong),
    ):
        rows = np.flatnonzero(which)
        rows = rows[np.argsort(-outcome.confidence[rows], kind='stable')][:count]
        if len(rows):
            file = f'{kind}.png'
            contact_sheet(_panels(images, outcome, rows), _SIDE).save(folder / file)
            found.append({'title': title, 'file': file, 'kind': kind})
    if count:
        draw_confusion(folder / 'confusion.png', images, outcome.predictions)
        title = 'Which classes are taken for which, share of each row in percent'
        found.append({'title': title, 'file': 'confusion.png'})
    return found


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts, rows are labels."""
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def draw_confusion(out: Path, images: LabelledImages, predictions: np.ndarray) -> None:
    """The confusion matrix as PNG; of more than 40 classes, those that are mixed up most."""
    counts = confusion(images.labels, predictions, len(images.classes))
    shown = np.arange(len(counts))
    if len(counts) > _LABELLED:
        errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-errors, kind='stable')[:_LABELLED])
    part = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    part = part[np.ix_(shown, shown)]
    names = [images.classes[i] for i in shown]
    side = max(3.6, 0.42 * len(names) + 1.6)
    figure = Figure(figsize=(side, side), dpi=110)
    axes = figure.subplots()
    axes.imshow(part, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel='prediction', ylabel='label')
    for (row, column), value in np.ndenumerate(part):
        if value >= 0.5:
            colour = 'white' if value > 55 else _INK
            axes.text(
                column, row, f'{value:.0f}', ha='center', va='center', fontsize=7, color=colour
            )
    axes.spines[:].set_visible(False)
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(str(out))


def _panels(images: LabelledImages, outcome: Outcome, rows: np.ndarray) -> list[list[Panel]]:
    panels = []
    for i in rows:
        label, guess = int(images.labels[i]), int(outcome.predictions[i])
        text = images.classes[label]
        text += f' > {images.classes[guess]}' if label != guess else ''
        share = f'{100 * outcome.confidence[i]:.0f} %'
        panels.append(Panel(np.asarray(images.image(i)), f'{share} {text}', every_row=True))
    return [panels[i : i + _COLUMNS] for i in range(0, len(panels), _COLUMNS)]
