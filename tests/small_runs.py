"""Runs small enough for a test: the tiny encoder on a handful of small scenes."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCENES = dict(num_train=8, num_val=3, size=(84, 112))


def scene_options(root: Path) -> dict[str, object]:
    """Config entries that point every loader at a few small scenes under ``root``."""
    options: dict[str, object] = {}
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        options |= {
            f'{loader}.num_workers': 0,
            f'{loader}.persistent_workers': False,
            f'{loader}.dataset.data_root': str(root),
            **{f'{loader}.dataset.{k}': v for k, v in SCENES.items()},
        }
    return options | {'train_dataloader.batch_size': 2}


NARROW = {
    'crop_size': (56, 56),
    'train_dataloader.dataset.pipeline.3.crop_size': (56, 56),
    'model.data_preprocessor.size': (56, 56),
    'model.decode_head.channels': 16,
    'model.auxiliary_head.channels': 16,
}


def small_run(root: Path, max_iters: int, **more: object) -> dict[str, object]:
    """Config entries of a run that takes seconds."""
    return scene_options(root) | {
        **NARROW,
        'train_pipeline.3.crop_size': (56, 56),
        'train_cfg.max_iters': max_iters,
        'train_cfg.val_interval': max_iters,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.begin': 2,
        'param_scheduler.1.end': max_iters,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
        'custom_hooks.2.num_images': 1,
        **more,
    }


def run_options(root: Path, max_iters: int, **more: object) -> list[str]:
    """``--cfg-options`` of a :func:`small_run`."""
    options = small_run(root, max_iters, **more)
    return ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in options.items())]


def launcher(processes: int) -> list[str]:
    """What starts a script, or ``-m`` a module, in one process or in several under torchrun."""
    if processes == 1:
        return [sys.executable]
    several = ['--standalone', '--nproc_per_node', str(processes)]
    return [sys.executable, '-m', 'torch.distributed.run', *several]


def run_job(module: str, job: dict, path: Path, processes: int) -> dict:
    """Give a module of the tests a job as JSON; what its first process found."""
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [*launcher(processes), '-m', module, path],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert 'built successfully' not in done.stdout  # DeepSpeed would compile an operator
    return json.loads(path.with_suffix('.result.json').read_text())


def tool(
    name: str, *args: object, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """Run a command line as a person does.

    In a fork of a process that has imported everything, which is quick, except where the
    environment differs or only ``--help`` is asked for, which has to be quick by itself.
    """
    command = [str(ROOT / 'tools' / f'{name}.py'), *map(str, args)]
    if not env and '--help' not in command:
        return _forked(command, str(cwd or ROOT))
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd or ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@cache
def _fork_server() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.fork_server'],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _forked(command: list[str], cwd: str) -> subprocess.CompletedProcess:
    server = _fork_server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, 'out'), Path(folder, 'err')
        job = {'argv': command, 'cwd': cwd, 'stdout': str(out), 'stderr': str(err)}
        server.stdin.write(json.dumps(job) + '\n')
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())
