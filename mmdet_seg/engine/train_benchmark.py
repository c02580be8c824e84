"""A training step under every strategy, beside mmengine's own Runner on the same model, in one run.

Every way runs in processes of its own, and the ways take turns. mmengine's Runner asks CUDA for a
device and for SyncBN where there are several processes; on the CPU it is given the process group,
the wrapper's arguments and the batch norms of ours, and does the rest itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.device import get_device

from mmdet_seg.engine.strategies import NAMES

STOCK = 'mmengine'


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        strategy: Ours, or :data:`STOCK`.
        processes: How many.
        seconds: Of an iteration with loading, median.
        ratio: To :data:`STOCK` in as many processes, median over the rounds; None without it.
        peak_gib: Resident memory at most, of the process that took most.
        loss: Of the last iteration; mmengine's shuffles in another order.
    """

    strategy: str
    processes: int
    seconds: float
    ratio: float | None
    peak_gib: float
    loss: float


def run(
    config: str,
    arch: str,
    ways: Sequence[tuple[str, int]],
    steps: int,
    rounds: int,
    batch: int,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure.

    Args:
        config: Path or name of a config.
        arch: Encoder.
        ways: (strategy, processes); each is compared with :data:`STOCK` in as many processes.
        steps: Measured iterations of a round; five more go before.
        rounds: Turns of each way.
        batch: Images of all processes in an iteration.
        progress: Called with a line before each turn.

    Raises:
        ValueError: The batch cannot be shared, or a way failed; says what it printed last.
    """
    for name, processes in ways:
        if name not in (STOCK, *NAMES):
            raise ValueError(f'--ways {name}:{processes}: there are {", ".join((STOCK, *NAMES))}.')
        if batch % processes:
            raise ValueError(f'--batch {batch} cannot be shared by {processes} processes.')
    found: dict[tuple[str, int], list[dict]] = {way: [] for way in ways}
    for i in range(rounds):
        for name, processes in ways if i % 2 == 0 else ways[::-1]:  # a machine may slow down
            progress(f'{name} in {processes}: {steps} steps, round {i + 1} of {rounds}')
            job = dict(config=config, arch=arch, strategy=name, steps=steps + 5)
            found[name, processes].append(
                _measure({**job, 'batch': batch // processes}, processes, os.cpu_count() or 1)
            )
    each = {way: [median(r['seconds'][5:]) for r in results] for way, results in found.items()}
    return [
        Row(
            *way,
            median(each[way]),
            _ratio(each[way], each.get((STOCK, way[1]))),
            max(r['peak'] for r in results) / 2**30,
            results[0]['loss'],
        )
        for way, results in found.items()
    ]


def _ratio(seconds: list[float], peer: list[float] | None) -> float | None:
    return median(a / b for a, b in zip(seconds, peer, strict=True)) if peer else None


def table(rows: Sequence[Row]) -> str:
    """Markdown; ratios to mmengine's Runner in as many processes, where that was measured."""
    lines = [
        f"| strategy | processes | iteration, s | of {STOCK}'s | peak memory of a process, GiB | "
        'loss |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        ratio = f'{row.ratio:.2f} x' if row.ratio else '-'
        lines.append(
            f'| {row.strategy} | {row.processes} | {row.seconds:.3f} | {ratio} | '
            f'{row.peak_gib:.2f} | {row.loss:.4f} |'
        )
    return '\n'.join(lines)


def _measure(job: dict[str, Any], processes: int, cores: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'job.json'
        path.write_text(json.dumps({**job, 'work_dir': folder}))
        launcher = ['-m', 'torch.distributed.run', '--standalone']
        launcher += ['--nproc_per_node', str(processes)]
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else ()), '-m', __name__, str(path)],
            env={
                **os.environ,
                'OMP_NUM_THREADS': str(max(cores // processes, 1)),
                'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-3:]
            raise ValueError(f'{job["strategy"]} in {processes} failed: {" / ".join(last)}')
        results = [json.loads(p.read_text()) for p in Path(folder).glob('result_*.json')]
    first = next(r for r in results if r['rank'] == 0)
    return {**first, 'peak': max(r['peak'] for r in results)}


def _train(job: dict[str, Any]) -> None:
    """In a process of its own."""
    from mmengine.hooks import Hook
    from torch import distributed as dist

    from mmdet_seg.engine.launch import process_group
    from mmdet_seg.engine.process_memory import peak_bytes
    from mmdet_seg.engine.recipe import load_recipe
    from mmdet_seg.engine.runner import Runner
    from mmdet_seg.engine.strategies import build_strategy

    class Clock(Hook):
        def __init__(self) -> None:
            self.times = [time.perf_counter()]
            self.loss = 0.0

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            self.loss = float(outputs['loss'])
            self.times.append(time.perf_counter())

    cfg = load_recipe(job['config'], arch=job['arch'])
    cfg.work_dir, cfg.custom_hooks = job['work_dir'], []
    cfg.train_cfg.max_iters = job['steps']
    cfg.train_dataloader.batch_size = job['batch']
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[key] = None
    cfg.default_hooks.checkpoint.update(interval=10**9, save_last=False, save_best=None)
    stock, clock = job['strategy'] == STOCK, Clock()
    cfg.strategy = None if stock else job['strategy']
    with process_group(build_strategy(cfg).needs_group):
        ranked = dist.is_initialized()
        world, rank = (dist.get_world_size(), dist.get_rank()) if ranked else (1, 0)
        cfg.launcher = 'pytorch' if world > 1 else 'none'
        if stock and world > 1:
            cfg.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
            )
        runner = (_stock_runner() if stock else Runner).from_cfg(cfg)
        runner.register_hook(clock)
        runner.train()
        pairs = zip(clock.times, clock.times[1:], strict=False)
        result = dict(seconds=[b - a for a, b in pairs], peak=peak_bytes(), rank=rank)
        result['loss'] = clock.loss if stock else runner.guard.loss
        (Path(job['work_dir']) / f'result_{rank}.json').write_text(json.dumps(result))


def _stock_runner() -> type:
    from mmengine.runner import Runner

    from mmdet_seg.ops.sync_batch_norm import sync_on_cpu

    class StockRunner(Runner):
        def wrap_model(self, model_wrapper_cfg: dict | None, model: Any) -> Any:
            if self.distributed and get_device() == 'cpu':
                model = sync_on_cpu(model)
            return super().wrap_model(model_wrapper_cfg, model)

    return StockRunner


if __name__ == '__main__':
    _train(json.loads(Path(sys.argv[1]).read_text()))
