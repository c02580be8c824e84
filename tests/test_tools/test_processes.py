"""The command lines under torchrun, two processes on the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.work_dir import find_resume
from tests.small_runs import ROOT, launcher, run_options


def torchrun(*args: object) -> subprocess.Popen:
    name, *rest = map(str, args)
    return subprocess.Popen(
        [*launcher(2), str(ROOT / 'tools' / f'{name}.py'), *rest],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('processes')
    status, out, err = finished(
        torchrun(
            'train', 'upernet_internvit', '--arch', 'tiny', '--strategy', 'zero2', '--work-dir',
            folder / 'run', *run_options(folder / 'scenes', 4),
        )
    )  # fmt: skip
    assert status == 0, err
    assert len([x for x in err.splitlines() if x.startswith('train 4/4')]) == 1  # one speaks
    assert out.count('mIoU: ') == 1
    return folder / 'run'


def test_what_a_run_of_several_leaves(run):
    summary = json.loads((run / 'summary.json').read_text())
    assert summary['strategy'] == 'zero2'
    assert summary['machine']['processes'] == 2
    assert {p.name for p in run.iterdir()} >= {'curves.png', 'predictions.png', 'iter_4'}


def test_a_distributed_test_gives_the_same_figure(run):
    checkpoint = next(run.glob('best_mIoU*'))
    status, out, err = finished(
        torchrun('test', run / 'upernet_internvit.py', checkpoint, '--work-dir', run / 'test')
    )
    assert status == 0, err
    best = json.loads((run / 'summary.json').read_text())['best']['mIoU']
    assert out.splitlines()[-1] == f'mIoU: {best:.2f}'


def test_sigterm_saves_in_all_processes(tmp_path):
    process = torchrun(
        'train', 'upernet_internvit', '--arch', 'tiny', '--work-dir', tmp_path / 'run',
        *run_options(tmp_path / 'scenes', 4000, **{'default_hooks.checkpoint.interval': 4000}),
    )  # fmt: skip
    assert any(line.startswith('train 1/') for line in process.stderr)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does; torchrun passes it on once more
    _, err = process.communicate(timeout=120)
    assert 'saved. Continue with: ' in err
    (saved,) = (tmp_path / 'run').glob('iter_*')
    assert f'Stopped at iteration {saved.name[5:]} of 4000' in err


SRUN = """#!/usr/bin/env bash
# As srun starts two tasks on one node: same variables, and the status of the last one that failed.
shift  # --kill-on-bad-exit=1
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_TASKS_PER_NODE='2(x1)' "$@" \
    2> "$LOGS/$task" & tasks+=($!)
done
echo "${tasks[@]}" > "$LOGS/tasks"
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit "$status"
"""


@pytest.fixture
def slurm(tmp_path):
    """Start tools/slurm_train.sh in a cluster that is not one: the process, and its logs."""
    for name, script in (('srun', SRUN), ('scontrol', '#!/bin/sh\necho localhost\n')):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    port = 20000 + os.getpid() % 10000
    while True:
        with suppress(OSError), socket.create_server(('', port)):
            break
        port += 1
    started = []

    def start(*args: object) -> subprocess.Popen:
        env = {
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'SLURM_JOB_NODELIST': 'node[1-2]',
            'SLURM_JOB_ID': str(port - 20000),  # the script makes its port of it
            'PYTHON': sys.executable,
            'LOGS': str(tmp_path),
            'OMP_NUM_THREADS': '1',
        }
        command = [ROOT / 'tools/slurm_train.sh', *map(str, args)]
        started.append(subprocess.Popen(['bash', *command], cwd=ROOT, env=env))
        wait_for(lambda: 'train 1/' in read(tmp_path / '0'))
        return started[0]

    yield start
    if started and started[0].poll() is None:
        for task in map(int, read(tmp_path / 'tasks').split()):
            os.kill(task, signal.SIGKILL)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ''


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_lost_process_ends_the_others_with_one_line(slurm, tmp_path):
    """Under Slurm, where no torchrun looks after them; the lost one is the one they meet at."""
    process = slurm(
        'upernet_internvit', '--arch', 'tiny', '--strategy', 'zero3', '--work-dir',
        tmp_path / 'run', *run_options(tmp_path / 'scenes', 4000),
    )  # fmt: skip
    wait_for(lambda: (tmp_path / 'run/iter_2').exists())
    os.kill(int(read(tmp_path / 'tasks').split()[0]), signal.SIGKILL)
    assert process.wait(timeout=60) in (1, 137)
    said = [line for line in read(tmp_path / '1').splitlines() if line.startswith('train.py: ')]
    assert said == [
        'train.py: Another process of this run is gone; its own lines say why. The checkpoints are '
        f'intact: continue with --resume {tmp_path / "run"}.'
    ]
    assert 'Traceback' not in read(tmp_path / '1')
    _, newest = find_resume('upernet_internvit', str(tmp_path / 'run'))
    assert open_folder(newest).iteration >= 2


@pytest.mark.slow
def test_slurms_sigterm_saves_and_is_the_jobs_status(slurm, tmp_path):
    process = slurm(
        'upernet_internvit', '--arch', 'tiny', '--strategy', 'fsdp', '--work-dir',
        tmp_path / 'run', *run_options(tmp_path / 'scenes', 4000),
        'default_hooks.checkpoint.interval=4000',
    )  # fmt: skip
    for task in map(int, read(tmp_path / 'tasks').split()):
        os.kill(task, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert 'saved. Continue with: ' in read(tmp_path / '0')
    (saved,) = (tmp_path / 'run').glob('iter_*')
    assert open_folder(saved).manifest['processes'] == 2


def test_a_mistake_is_said_once(tmp_path):
    status, _, err = finished(
        torchrun('train', 'upernet_internvit', '--arch', 'tiny', '--strategy', 'single')
    )
    assert status == 1  # torchrun's own
    ours = [x for x in err.splitlines() if x.startswith('train.py: ')]
    assert ours == [
        'train.py: --strategy single runs in one process, not in 2: leave torchrun out, or choose '
        'ddp.'
    ]
