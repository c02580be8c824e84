"""What a run leaves behind: summary.json, curves and predictions."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.plots import draw_curves, draw_predictions
from mmdet_seg.engine.process_memory import peak_bytes
from mmdet_seg.registry import HOOKS
from mmdet_seg.version import __version__

# Keys of the message hub; one that began with `val` would show up in mmengine's log lines.
HISTORY, SECONDS = 'history_of_validations', 'seconds_spent'
_PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmsegmentation', 'numpy')


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
        self.parameters = {
            'total': sum(p.numel() for p in runner.model.parameters()),
            'trained': sum(p.numel() for p in runner.model.parameters() if p.requires_grad),
        }

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        table = {}
        for metric in runner.val_evaluator.metrics:
            table.update(getattr(metric, 'table', {}))
        entry = {
            'iteration': runner.iter,
            **{k: float(v) for k, v in (metrics or {}).items()},
            'per_class_iou': table,
        }
        hub = runner.message_hub
        hub.update_info(HISTORY, [*hub.get_info(HISTORY), entry])
        self._write(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        runner.message_hub.update_info(SECONDS, time.monotonic() - self.started)

    def after_train(self, runner: Any) -> None:
        if not is_main_process():
            return
        self._write(runner)
        scalars = runner.message_hub.log_scalars
        loss = scalars['train/loss'].data[0].tolist() if 'train/loss' in scalars else []
        validations = runner.message_hub.get_info(HISTORY)
        draw_curves(Path(runner.work_dir) / 'curves.png', loss, validations, self.metric)
        if not runner.interrupted and runner.val_loop is not None:
            if best := self.best_checkpoint(runner):
                load_weights(getattr(runner.model, 'module', runner.model), best)
            out = Path(runner.work_dir) / 'predictions.png'
            draw_predictions(out, runner.model, runner.val_dataloader.dataset, self.num_images)

    def best_checkpoint(self, runner: Any) -> Path | None:
        """The file that CheckpointHook kept as the best."""
        best = _info(runner.message_hub, 'best_ckpt', None)
        path = Path(runner.work_dir) / Path(best).name if best else None
        return path if path and path.is_file() else None

    def _write(self, runner: Any) -> None:
        if not is_main_process():
            return
        hub = runner.message_hub
        validations = hub.get_info(HISTORY)
        best = max(validations, key=lambda v: v.get(self.metric, -1.0), default=None)
        summary = {
            'config': Path(runner.cfg.filename).name if runner.cfg.filename else None,
            'seed': runner.seed,
            'iterations': {'done': min(runner.iter, runner.max_iters), 'of': runner.max_iters},
            'finished': runner.iter >= runner.max_iters,
            'best': best,
            'validations': validations,
            'seconds': round(_info(hub, SECONDS, 0.0), 1),
            'wait_share': wait_share(hub.log_scalars),
            'parameters': self.parameters,
            'peak_memory_mib': peak_memory(),
            'versions': {'mmdet_seg': __version__, **{p: version(p) for p in _PACKAGES}},
            'machine': {
                'python': platform.python_version(),
                'system': platform.platform(),
                'threads': torch.get_num_threads(),
                'device': str(next(runner.model.parameters()).device),
            },
        }
        path = Path(runner.work_dir) / 'summary.json'
        aside = path.with_suffix('.part')
        aside.write_text(json.dumps(summary, indent=1, allow_nan=False) + '\n')
        aside.replace(path)


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
