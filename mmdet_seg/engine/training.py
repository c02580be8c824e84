"""The main job: train a config."""

import sys
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmdet_seg.command_line import INTERRUPTED, OK
from mmdet_seg.datasets.subset import apply_subset
from mmdet_seg.engine.preflight import check_data, check_weights
from mmdet_seg.engine.recipe import config_stem, load_recipe
from mmdet_seg.engine.report_hook import HISTORY, ReportHook
from mmdet_seg.engine.runner import Runner, build_runner
from mmdet_seg.engine.work_dir import find_resume, new_work_dir


def train(
    config: str,
    *,
    arch: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
    resume: str | None = None,
    tensorboard: bool = False,
    options: dict[str, Any] | None = None,
    protocol: str = 'ours',
    weights: str | None = None,
) -> int:
    """Train, report, and say what can be done next.

    Args:
        config: Path or name of a config.
        arch: Encoder to put into it.
        data: Data to put into it.
        work_dir: Where to write; None makes a new folder under ``work_dirs``.
        resume: None starts anew; '' continues the newest run of this config; else a checkpoint or a
            run's folder.
        tensorboard: Write TensorBoard events too.
        options: Dotted config keys to values.
        protocol: ``ours`` or ``authors``, see :func:`mmdet_seg.engine.recipe.load_recipe`.
        weights: Checkpoint of the encoder instead of the published one.

    Returns:
        Exit status: 0, or 130 after an interruption.
    """
    cfg = load_recipe(
        config, arch=arch, data=data, options=options, protocol=protocol, weights=weights
    )
    if tensorboard:
        cfg.visualizer.vis_backends = [
            *cfg.visualizer.vis_backends,
            dict(type='TensorboardVisBackend'),
        ]
    if resume is not None:
        folder, checkpoint = find_resume(config_stem(cfg), resume, work_dir)
        cfg.resume, cfg.load_from = True, str(checkpoint)
        print(f'Continuing from {checkpoint}.', file=sys.stderr)
    else:
        folder = new_work_dir(config_stem(cfg), work_dir)
    cfg.work_dir = str(folder)
    check_data(cfg)
    apply_subset(cfg, folder)
    check_weights(cfg)
    mmengine.mkdir_or_exist(cfg.work_dir)
    print(f'Writing to {cfg.work_dir}.', file=sys.stderr)
    runner = build_runner(cfg)
    runner.train()
    return finish(runner, cfg)


def finish(runner: Runner, cfg: Config) -> int:
    """Print the result and the next command."""
    folder, name = Path(cfg.work_dir), Path(cfg.filename).name
    if runner.interrupted:
        print(
            f'Stopped at iteration {runner.iter} of {runner.max_iters}, saved. Continue with: '
            f'{command("train")} {folder / name} --resume {folder}',
            file=sys.stderr,
        )
        return INTERRUPTED
    hook = next((h for h in runner.hooks if isinstance(h, ReportHook)), None)
    validations = runner.message_hub.runtime_info.get(HISTORY, [])
    if hook is None or not validations:
        return OK
    best = max(validations, key=lambda v: v.get(hook.metric, -1.0))
    print_table(best['per_class_iou'])
    print(f'{hook.metric}: {best[hook.metric]:.2f}')
    checkpoint = hook.best_checkpoint(runner) or folder / f'iter_{runner.max_iters}.pth'
    print(f'Look at {folder}/predictions.png and {folder}/curves.png. Next:')
    print(f'  {command("test")} {folder / name} {checkpoint}')
    print(f'  {command("infer")} {folder / name} {checkpoint} IMAGES... --out {folder}/out')
    return OK


def command(tool: str) -> str:
    """How to call a tool that lies beside the one that is running."""
    running = Path(sys.argv[0])
    tools = running.parent if running.parent.name == 'tools' else Path('tools')
    return f'python {tools / tool}.py'


def print_table(per_class: dict[str, float | None]) -> None:
    """IoU per class, best first; classes that do not occur stand last with a dash."""
    table = Table(box=None, pad_edge=False)
    table.add_column('class')
    table.add_column('IoU', justify='right')
    for name, iou in sorted(per_class.items(), key=lambda item: -(item[1] if item[1] else -1)):
        table.add_row(name, '-' if iou is None else f'{iou:.2f}')
    Console().print(table)
