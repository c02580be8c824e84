"""Pictures of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmdet_seg.engine.prediction_panels import panels

_INK = '#333333'


def draw_curves(out: Path, loss: Sequence[float], validations: list[dict], metric: str) -> None:
    """Training loss (raw and smoothed) and the validation metric over iterations, as PNG."""
    figure, canvas = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    steps, loss = np.arange(1, len(loss) + 1), np.asarray(loss, dtype=float)
    steps, loss = steps[np.isfinite(loss)], loss[np.isfinite(loss)]
    if len(loss):
        left.plot(steps, loss, color='#9ecae1', linewidth=0.8, label='each iteration')
        window = max(len(loss) // 30, 1)
        smooth = np.convolve(loss, np.ones(window) / window, mode='valid')
        left.plot(steps[window - 1 :], smooth, color='#08519c', label=f'mean of {window}')
        left.set_ylim(0, float(np.quantile(loss, 0.99)) * 1.1)
        left.legend(frameon=False, fontsize=8)
    left.set(title='Training loss', xlabel='iteration')
    if validations:
        where = [v['iteration'] for v in validations]
        values = [v.get(metric, np.nan) for v in validations]
        right.plot(where, values, 'o-', color='#238b45')
        best = int(np.nanargmax(values))
        right.annotate(
            f'{values[best]:.2f}', (where[best], values[best]), (0, 6), textcoords='offset points'
        )
        right.set_xlim(0, max(where) * 1.08)
        right.set_ylim(0, max(values) * 1.15 or 1)
    right.set(title=f'Validation {metric} (%)', xlabel='iteration')
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
    figure.tight_layout()
    canvas.print_png(str(out))


@torch.no_grad()
def draw_predictions(out: Path, model: torch.nn.Module, dataset: Any, num_images: int) -> None:
    """Rows of image, truth, prediction and, of label maps, differences, with a legend, as PNG."""
    model.eval()
    module = getattr(model, 'module', model)
    meta = dataset.metainfo
    indices = np.unique(np.linspace(0, len(dataset) - 1, num_images).astype(int))
    rows, present = [], set()
    for index in indices:
        sample = module.test_step(pseudo_collate([dataset[int(index)]]))[0]
        image = np.asarray(Image.open(sample.img_path).convert('RGB'))
        shown, classes = panels(sample, image, meta)
        rows.append(shown)
        present |= classes
    width = max(len(row) for row in rows)
    figure, canvas = _figure(2.75 * width, 2.15 * len(rows) + 0.7)
    axes = figure.subplots(len(rows), width, squeeze=False)
    for number, (places, row) in enumerate(zip(axes, rows, strict=True)):
        for axis, panel in zip(places, row, strict=False):
            axis.imshow(panel.picture)
            if panel.every_row:
                axis.set_title(panel.title, fontsize=8, color=_INK)
            elif number == 0:
                axis.set_title(panel.title, fontsize=10, color=_INK)
        for axis in places:
            axis.set_axis_off()
    handles = [
        matplotlib.patches.Patch(
            facecolor=np.array(meta['palette'][i]) / 255, edgecolor=_INK, label=meta['classes'][i]
        )
        for i in sorted(present)
    ]
    figure.legend(handles=handles, loc='lower center', ncol=8, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.55 / figure.get_figheight(), 1, 1))
    canvas.print_png(str(out))


def _figure(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    # Not pyplot: no global state, no display.
    figure = Figure(figsize=(width, height), dpi=110)
    return figure, FigureCanvasAgg(figure)
