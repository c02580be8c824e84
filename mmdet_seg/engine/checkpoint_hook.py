"""When a checkpoint is written and which ones are kept."""

import math
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as _CheckpointHook

from mmdet_seg.command_line import note
from mmdet_seg.engine.checkpoint import iterations
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.launch import agreed
from mmdet_seg.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's, with its arguments, for checkpoints that are folders and for all processes.

    An old checkpoint goes when the new one is complete; mmengine removes it first, and a run that
    is killed in between has none. With accumulation, a checkpoint waits for the update, because
    half a sum of gradients is not saved. The best checkpoint is known from its own manifest.
    """

    def __init__(self, *args: Any, filename_tmpl: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, filename_tmpl=filename_tmpl or 'iter_{}', **kwargs)
        if self.args:  # theirs hands them on, to nobody here
            raise TypeError(f'CheckpointHook got an unexpected keyword argument {min(self.args)!r}')
        self.best: dict[str, tuple[float, Path]] = {}
        self.due = False
        self.saved_at = -1
        self.told = False

    def before_train(self, runner: Any) -> None:
        self.out_dir = str(self.out_dir or runner.work_dir)
        if runner.resumed_from is None:
            return
        found = agreed(self._earlier_best)
        for metric, (score, path) in found.items():
            self._is_best(runner, metric, score, path)

    def _earlier_best(self) -> dict[str, tuple[float, Path]]:
        """What the run that is continued found best; says which ones are damaged."""
        found: dict[str, tuple[float, Path]] = {}
        for metric in self._metrics({}):
            for path in sorted(Path(self.out_dir).glob(f'best_{_plain(metric)}_*')):
                try:
                    score = open_folder(path).manifest.get('score')
                except ValueError as error:
                    note(f'Skipped: {error}')
                    continue
                before = found.get(metric)
                if score is not None and (before is None or self._beats(metric, score, before[0])):
                    found[metric] = (score, path)
        return found

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if self.by_epoch:
            return
        last = self.is_last_train_iter(runner)
        self.due |= self.every_n_train_iters(runner, self.interval, self.save_begin)
        self.due |= self.save_last and last
        if self.due and (last or runner.at_update):
            self.save_at(runner, runner.iter + 1)

    def save_at(self, runner: Any, done: int) -> None:
        """Save what resuming needs after ``done`` iterations, once, and drop what is too old."""
        self.due = False
        if done != self.saved_at:
            meta = dict(epoch=runner.epoch, iter=done)
            self._save_checkpoint_with_step(runner, done, meta)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        runner.save_checkpoint(self.out_dir, name, meta=meta, by_epoch=self.by_epoch)
        if not runner.unsaved:
            self.saved_at = step
        if self.max_keep_ckpts > 0 and not runner.unsaved and is_main_process():
            found = iterations(Path(self.out_dir), self.filename_tmpl)
            for old in [p for n, p in found if n < step][self.max_keep_ckpts - 1 :]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        for metric in self._metrics(metrics):
            score = metrics.get(metric)
            if score is None and not self.told:
                self.told = True
                note(
                    f'No best checkpoint is kept: save_best={metric}, and a validation gives '
                    f'{", ".join(metrics)}.'
                )
            if score is None or not math.isfinite(score) or not self._better(metric, score):
                continue
            step = runner.epoch if self.by_epoch else runner.iter
            path = Path(self.out_dir) / f'best_{_plain(metric)}_{self.filename_tmpl.format(step)}'
            if not runner.save_weights(path, metric=metric, score=float(score)):
                continue
            before = self.best.get(metric)
            self._is_best(runner, metric, float(score), path)
            if before and before[1] != path and is_main_process():
                shutil.rmtree(before[1], ignore_errors=True)

    def _is_best(self, runner: Any, metric: str, score: float, path: Path) -> None:
        self.best[metric] = (score, path)
        runner.message_hub.update_info('best_ckpt', str(path))

    def _metrics(self, found: dict[str, float]) -> list[str]:
        if not self.save_best:
            return []
        if 'auto' in self.key_indicators and found:
            self._init_rule(self.rules, [next(iter(found))])
        return self.key_indicators

    def _better(self, metric: str, score: float) -> bool:
        before = self.best.get(metric)
        return before is None or self._beats(metric, score, before[0])

    def _beats(self, metric: str, score: float, other: float) -> bool:
        return self.is_better_than[metric](score, other)


def _plain(metric: str) -> str:
    return metric.replace('/', '_')
