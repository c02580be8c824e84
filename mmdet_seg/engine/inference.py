"""A trained segmentor or detector on images outside any data set."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from rich.console import Console
from rich.progress import track

from mmdet_seg import command_line
from mmdet_seg.backbones.quantization import check_device
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.images import find_images, output_names, read_image
from mmdet_seg.engine.prediction_files import as_labels, files_for
from mmdet_seg.engine.prediction_panels import SHOWN
from mmdet_seg.engine.recipe import load_recipe


class Segmenter:
    """Config and checkpoint as a function from an image to class numbers.

    Of a model that predicts instances or panoptic segments, :meth:`predict` gives what it found.

    Args:
        cfg: A complete config.
        checkpoint: File of weights.
        device: Where to run; None takes CUDA if it is there.

    Attributes:
        classes: Class names.
        palette: (C, 3) uint8.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: str | None = None) -> None:
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        model = MODELS.build(cfg.model)
        meta = load_weights(model, checkpoint).get('dataset_meta') or dataset_meta(cfg)
        self.classes: Sequence[str] = meta['classes']
        self.palette = np.array(meta['palette'], dtype=np.uint8)
        self.model = revert_sync_batchnorm(model).to(self.device).eval()
        steps = cfg.test_dataloader.dataset.pipeline
        self.pipeline = Compose([s for s in steps if 'Load' not in _type_name(s)])

    @torch.no_grad()
    def predict(self, image: np.ndarray) -> Any:
        """(H, W, 3) uint8 RGB to the model's data sample, at the image's own size."""
        height, width = image.shape[:2]
        results = {
            'img': mmcv.rgb2bgr(image),  # what LoadImageFromFile gives
            'img_path': None,
            'img_shape': (height, width),
            'ori_shape': (height, width),
            'seg_fields': [],
        }
        return self.model.test_step(pseudo_collate([self.pipeline(results)]))[0]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB to (H, W) uint8 or uint16 class numbers from 0."""
        return as_labels(self.predict(image), len(self.classes))


def infer(
    config: str,
    checkpoint: str,
    images: Sequence[str],
    out: str,
    *,
    options: dict | None = None,
    device: str | None = None,
    least_score: float = SHOWN,
    quantize: str | None = None,
) -> int:
    """Run a model over images and write what it finds, see :mod:`.prediction_files`.

    Args:
        config: Path or name of a config.
        checkpoint: File of weights.
        images: Files, folders or globs.
        out: Folder to write to.
        options: Dotted config keys to values.
        device: Where to run.
        least_score: Instances with a lower score are neither drawn nor written.
        quantize: ``int8`` or ``fp8``: hold the encoder in 8 bits, and print what that changes.

    Returns:
        Exit status: 0, or 1 where some images could not be read.
    """
    MMLogger.get_instance('infer', log_level='ERROR')
    found = find_images(images)
    if quantize:
        check_device(quantize, device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    segmenter = Segmenter(load_recipe(config, options=options), checkpoint, device)
    files = None
    broken = 0
    for path, name in _progress(list(zip(found, output_names(found), strict=True))):
        try:
            image = read_image(path)
        except ValueError as error:  # one broken file must not cost the others
            print(f'infer.py: {error}', file=sys.stderr)
            broken += 1
            continue
        sample = segmenter.predict(image)
        if quantize:
            sample = _quantized(segmenter, quantize, image, sample, path, least_score)
            quantize = None
        files = files or files_for(
            sample, Path(out), segmenter.classes, segmenter.palette, least_score
        )
        files.add(name, path, image, sample)
    if files:
        files.close()
    what = f': {files.says}' if files else ''
    print(f'{len(found) - broken} of {len(found)} images in {out}{what}.')
    return 1 if broken else 0


def _quantized(
    segmenter: Segmenter, how: str, image: np.ndarray, before: Any, path: Path, least_score: float
) -> Any:
    """Quantise the encoder, say what that changes, and predict the first image again."""
    from mmdet_seg.engine.quantized_model import quantize_model

    command_line.note(quantize_model(segmenter.model, how).text())
    after = segmenter.predict(image)
    command_line.note(f'{how}: {what_changes(before, after, least_score)} in {path}.')
    return after


def what_changes(before: Any, after: Any, least_score: float) -> str:
    """What differs between two predictions of one image, in words.

    Args:
        before: The model's data sample.
        after: Another one.
        least_score: Of instances that count.
    """
    if 'pred_instances' in after:
        scores = [x.pred_instances.scores.float().cpu() for x in (after, before)]
        new, old = (s.sort(descending=True).values for s in scores)
        number = min(len(new), len(old))
        change = (new[:number] - old[:number]).abs().max().item() if number else 0.0
        counts = [int((s >= least_score).sum()) for s in scores]
        return (
            f'{counts[0]} objects instead of {counts[1]}, scores change by up to '
            f'{100 * change:.2f} points'
        )
    panoptic = 'pred_panoptic_seg' in after
    new, old = (
        x.pred_panoptic_seg.sem_seg if panoptic else x.pred_sem_seg.data for x in (after, before)
    )
    share = 100 * (new != old).float().mean().item()
    return f'{share:.2f} % of the pixels change {"segment" if panoptic else "class"}'


def _progress(jobs: list) -> Iterator:
    console = Console(stderr=True)
    yield from track(
        jobs, 'infer', console=console, disable=len(jobs) < 2 or not console.is_terminal
    )


def _type_name(step: dict) -> str:
    kind = step['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__


def dataset_meta(cfg: Config) -> dict:
    """Classes and palette of the test data, from the class or, where folders differ, the data."""
    dataset = cfg.test_dataloader.dataset
    kind = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    if 'classes' in kind.METAINFO:
        return kind.METAINFO
    return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
