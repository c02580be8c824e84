"""The command lines under torchrun, two processes on the CPU."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

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


def test_a_lost_process_is_one_line_of_ours(tmp_path):
    process = torchrun(
        'train', 'upernet_internvit', '--arch', 'tiny', '--work-dir', tmp_path / 'run',
        *run_options(tmp_path / 'scenes', 4000),
    )  # fmt: skip
    assert any(line.startswith('train 1/') for line in process.stderr)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'Signal 9 (SIGKILL)' in err  # torchrun says which one


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
