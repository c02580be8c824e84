"""A trained segmentor on images outside any data set."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

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
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.images import find_images, output_names, read_image
from mmdet_seg.engine.plots import overlay
from mmdet_seg.engine.recipe import load_recipe


class Segmenter:
    """Config and checkpoint as a function from an image to class numbers.

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
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB to (H, W) uint8 or uint16 class numbers from 0."""
        height, width = image.shape[:2]
        results = {
            'img': mmcv.rgb2bgr(image),  # what LoadImageFromFile gives
            'img_path': None,
            'img_shape': (height, width),
            'ori_shape': (height, width),
            'seg_fields': [],
        }
        sample = self.model.test_step(pseudo_collate([self.pipeline(results)]))[0]
        label = sample.pred_sem_seg.data[0].cpu().numpy()
        return label.astype(np.uint8 if len(self.classes) < 256 else np.uint16)


def infer(
    config: str,
    checkpoint: str,
    images: Sequence[str],
    out: str,
    *,
    options: dict | None = None,
    device: str | None = None,
) -> int:
    """Segment images and write, for each, a label PNG, a colour PNG and an overlay.

    Args:
        config: Path or name of a config.
        checkpoint: File of weights.
        images: Files, folders or globs.
        out: Folder to write to.
        options: Dotted config keys to values.
        device: Where to run.

    Returns:
        Exit status: 0, or 1 where some images could not be read.
    """
    MMLogger.get_instance('infer', log_level='ERROR')
    found = find_images(images)
    segmenter = Segmenter(load_recipe(config, options=options), checkpoint, device)
    folders = {kind: Path(out) / kind for kind in ('labels', 'colors', 'overlays')}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    (Path(out) / 'classes.txt').write_text(''.join(f'{c}\n' for c in segmenter.classes))
    broken = 0
    for path, name in _progress(list(zip(found, output_names(found), strict=True))):
        try:
            image = read_image(path)
        except ValueError as error:  # one broken file must not cost the others
            print(f'infer.py: {error}', file=sys.stderr)
            broken += 1
            continue
        label = segmenter(image)
        Image.fromarray(label).save(folders['labels'] / f'{name}.png')
        Image.fromarray(segmenter.palette[label]).save(folders['colors'] / f'{name}.png')
        blended = Image.fromarray(overlay(image, label, segmenter.palette))
        blended.save(folders['overlays'] / f'{name}.png')
    print(
        f'{len(found) - broken} of {len(found)} images in {out}: labels/ (class numbers from 0, as '
        'in classes.txt), colors/, overlays/.'
    )
    return 1 if broken else 0


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
