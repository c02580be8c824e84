"""Runner glue: recipes, training, evaluation, inference, hooks."""

from mmdet_seg.engine.autocast import AutocastOptimWrapper
from mmdet_seg.engine.checkpoint_hook import CheckpointHook
from mmdet_seg.engine.interrupt_hook import InterruptHook
from mmdet_seg.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmdet_seg.engine.mask_annealing_hook import MaskAnnealingHook
from mmdet_seg.engine.per_class_iou import PerClassIoU
from mmdet_seg.engine.progress_hook import ProgressHook
from mmdet_seg.engine.report_hook import ReportHook
from mmdet_seg.engine.runner import Runner
from mmdet_seg.engine.train_loop import TrainLoop
from mmdet_seg.engine.two_stage_warmup import TwoStageWarmupPolyLR

__all__ = [
    'AutocastOptimWrapper',
    'CheckpointHook',
    'InterruptHook',
    'LayerDecayOptimWrapperConstructor',
    'MaskAnnealingHook',
    'PerClassIoU',
    'ProgressHook',
    'ReportHook',
    'Runner',
    'TrainLoop',
    'TwoStageWarmupPolyLR',
]
