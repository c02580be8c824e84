"""One process of a training under some strategy: python -m tests.strategy_process JOB.json

Writes the loss of every iteration (mean of all processes), the validations and what the process
holds.
"""

import json
import math
import signal
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from torch import distributed as dist

from mmdet_seg.engine import checkpoint_folder
from mmdet_seg.engine.launch import process_group
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.runner import HISTORY, build_runner
from mmdet_seg.engine.strategies import build_strategy


class Losses(Hook):
    """Keeps the losses, and makes those of some iterations NaN in the last process."""

    def __init__(self, bad: list[int]) -> None:
        self.values: list[float] = []
        self.updates: list[int] = []  # iterations after which the first weight is another one
        self.before: torch.Tensor | None = None
        self.bad = bad

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        bad = batch_idx in self.bad and runner.rank == runner.world_size - 1
        if self.bad:
            head = runner.strategy.model.decode_head
            head.loss_decode.loss_weight = math.nan if bad else 1.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.values.append(runner.guard.loss)
        weight = runner.strategy.local(next(iter(runner.strategy.trained.values()))).clone()
        if self.before is not None and not torch.equal(weight, self.before):
            self.updates.append(batch_idx)
        self.before = weight


class Terminate(Hook):
    """A SIGTERM to the last process while it validates."""

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.rank == runner.world_size - 1:
            signal.raise_signal(signal.SIGTERM)


def fill_disk_at(checkpoint: str) -> None:
    """Writing this checkpoint finds no room."""
    original = checkpoint_folder._open.write

    def write(self, data) -> None:
        if self.file is not None and self.writer.target.name == checkpoint:
            self.file = Path('/dev/full').open('wb', buffering=0)  # noqa: SIM115
        original(self, data)

    checkpoint_folder._open.write = write


def main(path: Path) -> None:
    torch.set_num_threads(1)
    job = json.loads(path.read_text())
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in job['options'].items()}
    cfg = load_recipe(job['config'], arch='tiny', tune=job.get('tune'), options=options)
    cfg.strategy, cfg.work_dir = job['strategy'], job['work_dir']
    if job.get('resume'):
        cfg.resume, cfg.load_from = True, job['resume']
    with process_group(build_strategy(cfg).needs_group):
        world = dist.get_world_size() if dist.is_initialized() else 1
        cfg.launcher = 'pytorch' if world > 1 else 'none'
        runner = build_runner(cfg)
        losses = Losses(job.get('bad', []))
        runner.register_hook(losses)
        if job.get('terminate'):
            runner.register_hook(Terminate())
        if job.get('full'):
            fill_disk_at(job['full'])
        runner.train()
        history = runner.message_hub.runtime_info.get(HISTORY, [])
        result = {
            'losses': losses.values,
            'updates': losses.updates,
            'mIoU': [entry['mIoU'] for entry in history if 'mIoU' in entry],
            'validations': [
                {k: v for k, v in entry.items() if isinstance(v, float)} for entry in history
            ],
            'skipped': runner.guard.skipped,
            'interrupted': int(runner.interrupted),
        }
        if not dist.is_initialized() or dist.get_rank() == 0:
            path.with_suffix('.result.json').write_text(json.dumps(result))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
