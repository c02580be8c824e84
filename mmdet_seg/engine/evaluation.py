"""Evaluate a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmdet_seg.backbones.quantization import check_device
from mmdet_seg.command_line import note
from mmdet_seg.engine.checkpoint import check_exists, load_weights
from mmdet_seg.engine.launch import agreed, num_processes, process_group
from mmdet_seg.engine.preflight import check_data
from mmdet_seg.engine.quantized_model import quantize_model
from mmdet_seg.engine.recipe import config_stem, load_recipe
from mmdet_seg.engine.report_hook import ReportHook
from mmdet_seg.engine.runner import build_runner
from mmdet_seg.engine.training import print_table
from mmdet_seg.engine.tta import add_tta
from mmdet_seg.engine.work_dir import new_work_dir


def evaluate(
    config: str,
    checkpoint: str,
    *,
    arch: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
    protocol: str = 'ours',
    tta: bool = False,
    out: str | None = None,
    quantize: str | None = None,
) -> int:
    """Run the test set through a model and print the per-class table and the mean.

    The processes of torchrun share the images.

    Args:
        config: Path or name of a config.
        checkpoint: File of weights.
        arch: Encoder to put into the config.
        data: Data to put into the config.
        work_dir: Where to log; None makes a new folder under ``work_dirs``.
        options: Dotted config keys to values.
        protocol: ``ours`` or ``authors``, see :func:`mmdet_seg.engine.recipe.load_recipe`.
        tta: Several scales and flips, averaged (:mod:`mmdet_seg.engine.tta`) or, of detectors,
            merged (:mod:`mmdet_seg.engine.detection_tta`).
        out: Folder for the results: in COCO's format of detectors, which without ``out`` write to
            the run's folder, as label PNGs of segmentors.
        quantize: ``int8`` or ``fp8``: evaluate as it is, then with the encoder in 8 bits, and print
            what that changes.

    Returns:
        Exit status 0.
    """
    check_exists(checkpoint)
    if quantize:
        check_device(quantize, 'cuda' if torch.cuda.is_available() else 'cpu')
    cfg = load_recipe(config, arch=arch, data=data, options=options, protocol=protocol)
    cfg.load_from, cfg.resume = None, False
    check_data(cfg, ('test',))
    if tta:
        _add_tta(cfg)
    with process_group():
        # Also where the config of a run of several processes says otherwise.
        cfg.launcher = 'pytorch' if num_processes() > 1 else 'none'
        folder = agreed(lambda: new_work_dir(f'{config_stem(cfg)}_test', work_dir))
        cfg.work_dir = str(folder)
        kept = _keep_results(cfg, Path(out) if out else None)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        agreed(lambda: DATASETS.build(cfg.test_dataloader.dataset) and None)  # may write files
        runner = build_runner(cfg)
        load_weights(runner.model.module if tta else runner.model, checkpoint)
        metrics, before = runner.test(), None
        if quantize:
            note(quantize_model(runner.model, quantize).text())
            metrics, before = runner.test(), metrics
        if not is_main_process():
            return 0
    for metric in runner.test_evaluator.metrics:
        if table := getattr(metric, 'table', None):
            print_table(table)
    hook = next((h for h in runner.hooks if isinstance(h, ReportHook)), None)
    shown = hook.metric if hook else next(iter(metrics))
    others = '  '.join(f'{k}: {v:.2f}' for k, v in metrics.items() if k != shown)
    if kept:
        print(f'Results: {kept}')
    print(f'{others}\n{shown}: {metrics[shown]:.2f}')
    if before:
        change = metrics[shown] - before[shown]
        print(f'with {quantize}; {before[shown]:.2f} without, a change of {change:+.2f}')
    return 0


def _add_tta(cfg: Config) -> None:
    if cfg.get('default_scope') != 'mmdet':
        add_tta(cfg)
        return
    from mmdet_seg.engine.detection_tta import add_detection_tta  # needs mmdet, an extra

    add_detection_tta(cfg)


def _keep_results(cfg: Config, out: Path | None) -> str:
    """Have the metrics write what they were given; says where and how."""
    kept = ''
    several = isinstance(cfg.test_evaluator, list | tuple)
    for evaluator in cfg.test_evaluator if several else [cfg.test_evaluator]:
        kind = str(getattr(evaluator.type, '__name__', evaluator.type)).rpartition('.')[2]
        if kind in ('PerClassAP', 'CocoMetric', 'CocoPanopticMetric'):
            evaluator.outfile_prefix = str((out or Path(cfg.work_dir)) / 'results')
            kept = f'{evaluator.outfile_prefix}.*.json, in the format of COCO'
        elif out and kind in ('PerClassIoU', 'IoUMetric'):
            evaluator.output_dir = str(out)
            kept = f'{out}, label PNGs'
    return kept
