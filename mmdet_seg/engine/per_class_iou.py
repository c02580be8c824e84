"""mmseg's IoUMetric that also keeps the table it prints."""

import numpy as np
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric


@METRICS.register_module()
class PerClassIoU(IoUMetric):
    """IoU per class in ``table`` after every evaluation; the metrics are mmseg's own.

    Attributes:
        table: Class name to IoU in percent, None for a class that neither occurs nor is predicted.
    """

    table_name = 'per_class_iou'  # in summary.json

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.table: dict[str, float | None] = {}

    def compute_metrics(self, results: list) -> dict[str, float]:
        # `results` holds per image: intersect, union, predicted, labelled area of every class.
        if not self.format_only and results:
            intersect, union = (np.sum([np.asarray(r[i]) for r in results], axis=0) for i in (0, 1))
            with np.errstate(invalid='ignore'):
                iou = 100 * intersect / union
            self.table = {
                name: None if np.isnan(value) else round(float(value), 2)
                for name, value in zip(self.dataset_meta['classes'], iou, strict=True)
            }
        return super().compute_metrics(results)
