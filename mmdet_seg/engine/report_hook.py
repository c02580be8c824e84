"""What a run leaves behind: summary.json, curves and predictions."""

import json
import math
import platform
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm

from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.frozen_parameters import frozen_by_name, show_frozen
from mmdet_seg.engine.plots import draw_curves, draw_predictions
from mmdet_seg.engine.process_memory import peak_bytes
from mmdet_seg.engine.runner import HISTORY
from mmdet_seg.registry import HOOKS, MODELS
from mmdet_seg.version import __version__

SECONDS = 'seconds_spent'  # key of the message hub
_PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmsegmentation', 'mmdet', 'numpy')


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``summary.json`` at every validation, curves and predictions (PNG) at the end.

    What it has gathered travels in the checkpoint's message hub, so a resumed run tells the whole.

    Args:
        metric: Which metric ranks validations; higher is better.
        num_images: How many validation images are drawn beside their truth.
    """

    priority = 'VERY_LOW'

    def __init__(self, metric: str = 'mIoU', num_images: int = 6) -> None:
        self.metric = metric
        self.num_images = num_images

    def before_train(self, runner: Any) -> None:
        hub = runner.message_hub
        hub.update_info(HISTORY, _info(hub, HISTORY, []))
        self.started = time.monotonic() - _info(hub, SECONDS, 0.0)
        self.parameters = parameter_counts(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        tables: dict[str, dict] = {}
        for metric in runner.val_evaluator.metrics:
            if hasattr(metric, 'table'):
                tables.setdefault(metric.table_name, {}).update(metric.table)
        entry = {
            'iteration': runner.iter,
            **{k: float(v) for k, v in (metrics or {}).items()},
            **(tables or {'per_class_iou': {}}),
        }
        hub = runner.message_hub
        hub.update_info(HISTORY, [*hub.get_info(HISTORY), entry])
        self._write(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        runner.message_hub.update_info(SECONDS, time.monotonic() - self.started)

    def after_train(self, runner: Any) -> None:
        if is_main_process():
            self._write(runner)
            scalars = runner.message_hub.log_scalars
            loss = scalars['train/loss'].data[0].tolist() if 'train/loss' in scalars else []
            validations = runner.message_hub.get_info(HISTORY)
            draw_curves(Path(runner.work_dir) / 'curves.png', loss, validations, self.metric)
        if not runner.interrupted and runner.val_loop is not None:
            self._draw_predictions(runner)
        barrier()

    @master_only
    def _draw_predictions(self, runner: Any) -> None:
        best = self.best_checkpoint(runner)
        model = getattr(runner.model, 'module', runner.model)
        if runner.strategy.sharded:  # one process alone cannot run shards
            if best is None:
                return
            model = revert_sync_batchnorm(MODELS.build(runner.cfg.model))
            model.to(get_device())
        if best is not None:
            show_frozen(model)
            load_weights(model, best)
        out = Path(runner.work_dir) / 'predictions.png'
        draw_predictions(out, model, runner.val_dataloader.dataset, self.num_images)

    def best_checkpoint(self, runner: Any) -> Path | None:
        """What CheckpointHook kept as the best."""
        best = _info(runner.message_hub, 'best_ckpt', None)
        path = Path(runner.work_dir) / Path(best).name if best else None
        return path if path and path.exists() else None

    def _write(self, runner: Any) -> None:
        if not is_main_process():
            return
        hub = runner.message_hub
        validations = hub.get_info(HISTORY)
        best = max(validations, key=lambda v: v.get(self.metric, -1.0), default=None)
        summary = {
            'config': Path(runner.cfg.filename).name if runner.cfg.filename else None,
            'seed': runner.seed,
            'strategy': runner.cfg.get('strategy') or type(runner.strategy).__name__.lower(),
            'iterations': {'done': min(runner.iter, runner.max_iters), 'of': runner.max_iters},
            'finished': runner.iter >= runner.max_iters and not runner.interrupted,
            'best': best,
            'validations': validations,
            'seconds': round(_info(hub, SECONDS, 0.0), 1),
            'wait_share': wait_share(hub.log_scalars),
            'parameters': self.parameters,
            'peak_memory_mib': peak_memory(),
            'versions': {'mmdet_seg': __version__, **versions()},
            'machine': {
                'python': platform.python_version(),
                'system': platform.platform(),
                'threads': torch.get_num_threads(),
                'device': str(next(runner.strategy.model.parameters()).device),
                'processes': runner.world_size,
            },
        }
        path = Path(runner.work_dir) / 'summary.json'
        aside = path.with_suffix('.part')
        aside.write_text(json.dumps(summary, indent=1, allow_nan=False) + '\n')
        aside.replace(path)


def versions() -> dict[str, str]:
    """Of the packages that a result depends on, those that are installed."""
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def parameter_counts(runner: Any) -> dict[str, int]:
    """Numbers of all parameters and of those that train, wherever their parts are."""
    strategy = runner.strategy
    trained = sum(math.prod(strategy.shape(p)) for p in strategy.trained.values())
    frozen = sum(size for _, size in frozen_by_name(strategy.model))
    return {'total': trained + frozen, 'trained': trained}


def wait_share(scalars: dict[str, Any]) -> float | None:
    """Part of the training time that was spent waiting for data; the first iteration is left out.

    Args:
        scalars: mmengine's history buffers, with ``train/time`` and ``train/data_time``.
    """
    if not {'train/time', 'train/data_time'} <= scalars.keys():
        return None
    total, waited = (
        float(scalars[f'train/{key}'].data[0][1:].sum()) for key in ('time', 'data_time')
    )
    return round(waited / total, 4) if total else None


def peak_memory() -> dict[str, int]:
    """MiB at most so far: of this process, and on the CUDA device where there is one."""
    peak = {'host': peak_bytes() >> 20}
    if torch.cuda.is_available():
        peak['cuda'] = torch.cuda.max_memory_allocated() >> 20
    return peak


def _info(hub: Any, key: str, default: Any) -> Any:
    return hub.runtime_info.get(key, default)
