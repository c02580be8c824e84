"""COCO's average precision of boxes and masks, in percent, with a table of classes."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from mmdet_seg.datasets.coco_instances import Annotations
from mmdet_seg.mmdet_door import COCO, CocoMetric

# Name -> (overlap in percent, None for the mean of 50, 55 .. 95; COCO's class of area).
_FIGURES = {
    'AP': (None, 'all'),
    'AP50': (50, 'all'),
    'AP75': (75, 'all'),
    'APs': (None, 'small'),
    'APm': (None, 'medium'),
    'APl': (None, 'large'),
}
_WORDS = {'bbox': 'box', 'segm': 'mask'}
_AREAS = ('all', 'small', 'medium', 'large')


@METRICS.register_module()
class PerClassAP(CocoMetric):
    """mmdet's ``CocoMetric`` that says more: percent to two decimals, and every class.

    Metrics are ``bbox_AP``, ``bbox_AP50``, ``segm_AP`` and so on, at 100 detections an image as
    COCO defines them. Images that were not tested do not count. Without ``ann_file``, the data
    set's own is the truth (``metainfo['ann_file']``).

    Args:
        metric: ``bbox``, ``segm`` or both.
        figures: Which of AP, AP50, AP75, APs, APm, APl; None is all of them.
        kwargs: Of mmdet's class; ``outfile_prefix`` keeps the results in COCO's format.

    Attributes:
        table: Class name to ``{'box AP': ..., 'box AP50': ..., 'mask AP': ...}``; None for a class
            that the data do not hold.

    Raises:
        ValueError: Another metric or figure.
    """

    default_prefix = None
    table_name = 'per_class_ap'

    def __init__(
        self,
        metric: str | Sequence[str] = ('bbox', 'segm'),
        figures: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        kinds = [metric] if isinstance(metric, str) else list(metric)
        if unknown := [kind for kind in kinds if kind not in _WORDS]:
            raise ValueError(f'metric={unknown}: there are {", ".join(_WORDS)}.')
        super().__init__(metric=kinds, **kwargs)
        self.figures = list(_FIGURES) if figures is None else list(figures)
        if unknown := [f for f in self.figures if f not in _FIGURES]:
            raise ValueError(f'figures={unknown}: there are {", ".join(_FIGURES)}.')
        self.table: dict[str, dict[str, float | None]] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Gather predictions; the truth is read with the first ones."""
        if self._coco_api is None and (file := (self.dataset_meta or {}).get('ann_file')):
            with redirect_stdout(StringIO()):
                self._coco_api = Annotations(file)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Metrics in percent from what ``process`` gathered."""
        truths, predictions = zip(*results, strict=True)
        with TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
            self._read_truth(truths, str(Path(folder) / 'truth'))
            files = self.results2json(predictions, prefix)
            if self.format_only:
                return {}
            kinds = [kind for kind in self.metrics if kind in files]  # some models have no masks
            found = {kind: json.loads(Path(files[kind]).read_text()) for kind in kinds}
        images = sorted({truth['img_id'] for truth in truths})
        self.table = {name: {} for name in self.dataset_meta['classes']}
        metrics = {}
        for kind, detections in found.items():
            precision = self._precision(kind, detections, images)
            for figure in self.figures:
                metrics[f'{kind}_{figure}'] = _mean(_select(precision, figure))
            for figure in ('AP', 'AP50'):
                values = _select(precision, figure)
                for number, row in enumerate(self.table.values()):
                    row[f'{_WORDS[kind]} {figure}'] = _mean(values[..., number], empty=None)
        return metrics

    def _read_truth(self, truths: tuple[dict, ...], aside: str) -> None:
        if self._coco_api is None:  # the samples brought it along
            with redirect_stdout(StringIO()):
                self._coco_api = COCO(self.gt_to_coco_json(truths, aside))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])

    def _precision(self, kind: str, detections: list[dict], images: list[int]) -> np.ndarray:
        """(overlaps, recalls, classes, areas): precision, -1 where there is nothing to find."""
        if kind == 'segm':  # the area of a detection is its mask's, not its box's
            detections = [{k: v for k, v in d.items() if k != 'bbox'} for d in detections]
        with redirect_stdout(StringIO()):
            found = self._coco_api.loadRes(detections) if detections else self._nothing()
            evaluation = COCOeval(self._coco_api, found, kind)
            evaluation.params.catIds = self.cat_ids
            evaluation.params.imgIds = images
            evaluation.params.iouThrs = np.asarray(self.iou_thrs)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval['precision'][..., -1]

    def _nothing(self) -> COCO:
        """No detections, which pycocotools cannot read."""
        empty = COCO()
        empty.dataset = {**self._coco_api.dataset, 'annotations': []}
        empty.createIndex()
        return empty


def _select(precision: np.ndarray, figure: str) -> np.ndarray:
    """(overlaps, recalls, classes) that a figure is the mean of."""
    overlap, area = _FIGURES[figure]
    precision = precision[..., _AREAS.index(area)]
    return precision if overlap is None else precision[[(overlap - 50) // 5]]


def _mean(values: np.ndarray, empty: float | None = 0.0) -> float | None:
    """In percent, of what there was to find."""
    values = values[values > -1]
    return round(100 * float(values.mean()), 2) if values.size else empty
