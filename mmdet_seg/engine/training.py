"""The main job: train a config."""

import errno
import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rich.console import Console
from rich.table import Table

from mmdet_seg.backbones.run_folder import MANIFEST
from mmdet_seg.command_line import INTERRUPTED, OK, TERMINATED, Failure, note
from mmdet_seg.datasets.subset import apply_subset
from mmdet_seg.engine.config_mistakes import one_line_mistakes
from mmdet_seg.engine.config_numbers import check_numbers
from mmdet_seg.engine.launch import agreed, num_processes, process_group
from mmdet_seg.engine.preflight import check_data, check_start, check_weights
from mmdet_seg.engine.recipe import config_stem, load_recipe
from mmdet_seg.engine.report_hook import ReportHook
from mmdet_seg.engine.runner import HISTORY, Runner, build_runner
from mmdet_seg.engine.strategies import build_strategy
from mmdet_seg.engine.work_dir import empty_work_dir, find_resume, make_work_dir

# What a collective says when another process went away.
_LOST = ('closed by peer', 'reset by peer', 'gloo', 'NCCL', 'ProcessGroup', 'Broken pipe')

# What is wrong with a disk and not with us: full, over quota, read-only, broken.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def train(
    config: str,
    *,
    arch: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
    resume: str | None = None,
    tensorboard: bool = False,
    wandb: str | None = None,
    options: dict[str, Any] | None = None,
    protocol: str = 'ours',
    weights: str | None = None,
    tune: str | None = None,
    strategy: str | None = None,
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
        wandb: Project at Weights & Biases to log to as well.
        options: Dotted config keys to values.
        protocol: ``ours`` or ``authors``, see :func:`mmdet_seg.engine.recipe.load_recipe`.
        weights: Checkpoint of the encoder instead of the published one.
        tune: What of the encoder trains, see :func:`mmdet_seg.engine.tuning.apply_tune`.
        strategy: One of :data:`mmdet_seg.engine.strategies.NAMES`; None takes ``single``, or
            ``ddp`` in several processes.

    Returns:
        Exit status: 0, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        mmdet_seg.command_line.Failure: Something outside ended the run.
    """
    cfg = load_recipe(
        config,
        arch=arch,
        data=data,
        options=options,
        protocol=protocol,
        weights=weights,
        tune=tune,
    )
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not cfg.get(key):
            raise ValueError(f'{cfg.filename} has no `{key}`: there is nothing to train.')
    for flag, value in (('--work-dir', work_dir), ('--wandb', wandb)):
        if value == '':
            raise ValueError(f'{flag} names nothing; give a name, or leave it out.')
    if strategy:
        cfg.strategy = strategy
    for wanted, backend in (
        (tensorboard, dict(type='TensorboardVisBackend')),
        (wandb is not None, dict(type='WandbVisBackend', init_kwargs=dict(project=wandb))),
    ):
        if wanted:
            cfg.visualizer.vis_backends = [*cfg.visualizer.vis_backends, backend]
    if wandb is not None and find_spec('wandb') is None:
        raise ValueError('--wandb needs Weights & Biases: pip install wandb, then wandb login.')
    if tensorboard and find_spec('tensorboard') is None:
        raise ValueError("--tensorboard needs TensorBoard: pip install 'mmdet_seg[tensorboard]'")
    check_numbers(cfg)
    chosen = build_strategy(cfg)  # a mistake is found before anything is prepared
    with process_group(chosen.needs_group):
        return _train(cfg, work_dir, resume)


def _train(cfg: Config, work_dir: str | None, resume: str | None) -> int:
    # Also where the config of an earlier run says otherwise.
    cfg.launcher = 'pytorch' if num_processes() > 1 else 'none'
    folder, checkpoint = agreed(lambda: _folder(cfg, work_dir, resume))
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, checkpoint
        _keep_seed(cfg, checkpoint)
        note(f'Continuing from {checkpoint}.')
    cfg.work_dir = folder
    check_data(cfg)
    apply_subset(cfg, folder)
    check_weights(cfg)
    check_start(cfg)
    agreed(lambda: make_work_dir(folder))
    agreed(lambda: _make_data(cfg))
    note(f'Writing to {folder}.')
    try:
        runner = build_runner(cfg)
        runner.train()
    except RuntimeError as error:
        if num_processes() > 1 and any(word in str(error) for word in _LOST):
            raise Failure(
                'Another process of this run is gone; its own lines say why. The checkpoints are '
                f'intact: continue with --resume {folder}.'
            ) from error
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise Failure(
            f'{error.filename or folder}: {error.strerror}. Earlier checkpoints are intact: make '
            f'room, then continue with --resume {folder}.'
        ) from error
    return finish(runner, cfg)


def _folder(cfg: Config, work_dir: str | None, resume: str | None) -> tuple[str, str | None]:
    """Where to write, and what to continue from."""
    checkpoint = None
    if resume is None:
        folder = empty_work_dir(config_stem(cfg), work_dir)
    else:
        folder, checkpoint = find_resume(config_stem(cfg), resume, work_dir)
    return str(folder), checkpoint and str(checkpoint)


def _keep_seed(cfg: Config, checkpoint: str) -> None:
    """Go on with the seed that a run drew, where its config leaves that to chance."""
    manifest = Path(checkpoint) / MANIFEST
    if (cfg.get('randomness') or {}).get('seed') is None and manifest.is_file():
        seed = json.loads(manifest.read_text()).get('seed')
        cfg.merge_from_dict({'randomness.seed': seed})


def _make_data(cfg: Config) -> None:
    """Build the data sets once: some write files when they are built for the first time."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if num_processes() > 1:
        for split in ('train', 'val'):
            if loader := cfg.get(f'{split}_dataloader'):
                with one_line_mistakes(cfg):
                    DATASETS.build(loader.dataset)


def finish(runner: Runner, cfg: Config) -> int:
    """Print the result and the next command."""
    folder, name = Path(cfg.work_dir), Path(cfg.filename).name
    if runner.interrupted:
        note(
            f'Stopped at iteration {runner.iter} of {runner.max_iters}, saved. Continue with: '
            f'{command("train")} {folder / name} --resume {folder}'
        )
        return TERMINATED if runner.interrupted == signal.SIGTERM else INTERRUPTED
    if not is_main_process():
        return OK
    hook = next((h for h in runner.hooks if isinstance(h, ReportHook)), None)
    validations = runner.message_hub.runtime_info.get(HISTORY, [])
    if hook is None or not validations:
        return OK
    best = max(validations, key=lambda v: v.get(hook.metric, -1.0))
    print_table(per_class(best))
    if 'per_class_iou' not in best:  # several figures of equal rank
        print('  '.join(f'{k}: {v:.2f}' for k, v in best.items() if isinstance(v, float)))
    print(f'{hook.metric}: {best[hook.metric]:.2f}')
    checkpoint = hook.best_checkpoint(runner) or folder / f'iter_{runner.max_iters}'
    print(f'Look at {folder}/predictions.png and {folder}/curves.png. Next:')
    print(f'  {command("test")} {folder / name} {checkpoint}')
    print(f'  {command("infer")} {folder / name} {checkpoint} IMAGES... --out {folder}/out')
    return OK


def command(tool: str) -> str:
    """How to call a tool that lies beside the one that is running."""
    running = Path(sys.argv[0])
    tools = running.parent if running.parent.name == 'tools' else Path('tools')
    return f'python {tools / tool}.py'


def per_class(validation: dict[str, Any]) -> dict[str, Any]:
    """The table of classes in an entry of the history of validations."""
    return next((v for k, v in validation.items() if k.startswith('per_class_')), {})


def print_table(per_class: dict[str, Any]) -> None:
    """Figures per class, best first; classes that do not occur stand last with a dash.

    Args:
        per_class: Name to IoU, or to a row of named figures; None where there is none.
    """
    rows = {k: v if isinstance(v, dict) else {'IoU': v} for k, v in per_class.items()}
    columns = list(dict.fromkeys(c for row in rows.values() for c in row)) or ['IoU']
    table = Table(box=None, pad_edge=False)
    table.add_column('class')
    for column in columns:
        table.add_column(column, justify='right')
    for name, row in sorted(rows.items(), key=lambda item: -(item[1].get(columns[0]) or -1)):
        values = (row.get(column) for column in columns)
        table.add_row(name, *('-' if v is None else f'{v:.2f}' for v in values))
    Console().print(table)
