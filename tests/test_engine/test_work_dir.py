"""Which run is meant by --resume, and that a new run overwrites none."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.engine.checkpoint_folder import open_folder, write_folder
from mmdet_seg.engine.work_dir import find_resume, new_work_dir


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, checkpoints in (('1', (2, 10)), ('2', (4,)), ('3', ())):
        folder = tmp_path / 'work_dirs' / 'c' / name
        folder.mkdir(parents=True)
        for n in checkpoints:
            write_folder(folder / f'iter_{n}', {}, None, {'iteration': n})
    return Path('work_dirs/c')


def test_the_newest_run_that_has_a_checkpoint(runs):
    assert find_resume('c', '') == (runs / '2', runs / '2/iter_4')
    assert find_resume('c', str(runs / '1')) == (runs / '1', runs / '1/iter_10')
    assert find_resume('c', '', str(runs / '1')) == (runs / '1', runs / '1/iter_10')
    one = runs / '1/iter_2'
    assert find_resume('c', str(one)) == (runs / '1', one)
    assert find_resume('c', str(one), 'elsewhere') == (Path('elsewhere'), one)


def test_what_is_not_complete_is_skipped_and_named(runs, capsys):
    newest = runs / '1/iter_10'
    manifest = newest / 'manifest.json'
    content = json.loads(manifest.read_text())
    (newest / 'model.safetensors').write_bytes(b'12345678')
    for wrong, why in (
        ({'bytes': 9, 'sha256': ''}, 'model.safetensors has 8 bytes instead of 9'),
        ({'bytes': 8, 'sha256': 'f' * 64}, 'model.safetensors has changed'),
    ):
        content['files'] = {'model.safetensors': wrong}
        manifest.write_text(json.dumps(content))
        assert find_resume('c', str(runs / '1'))[1] == runs / '1/iter_2'
        assert f'Skipped: {newest} is not a complete checkpoint: {why}.' in capsys.readouterr().err
    manifest.unlink()
    assert find_resume('c', str(runs / '1'))[1] == runs / '1/iter_2'


def test_nothing_to_resume(runs):
    with pytest.raises(
        FileNotFoundError, match=r'no complete checkpoint \(iter_N\) in work_dirs/d'
    ):
        find_resume('d', '')
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        find_resume('c', 'nowhere')
    with pytest.raises(FileNotFoundError, match='no complete checkpoint'):
        find_resume('c', str(runs / '3'))


def test_two_runs_in_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = set()
    for _ in range(3):
        folder = new_work_dir('c')
        folder.mkdir(parents=True)
        seen.add(folder)
    assert len(seen) == 3


def save(folder: Path, iteration: int, name: str | None = None) -> None:
    value = torch.full((1000,), float(iteration))
    entry = TensorEntry('weight', (1000,), torch.float32, lambda: value)
    tensors = {'model': [entry], 'optimizer': [entry]}
    write_folder(
        folder / (name or f'iter_{iteration}'), tensors, {'a': 1}, {'iteration': iteration}
    )


def calls(function: Callable[[], None], kill_at: int = 0) -> int:
    """Calls of Python and C functions that a function makes; SIGKILL comes at one of them."""
    count = 0

    def watch(*_) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize('name', ['iter_6', 'iter_4'])  # a new one, and one that replaces another
def test_kill_9_at_any_moment_of_a_save(name, tmp_path, capfd):
    before, run = tmp_path / 'before', tmp_path / 'run'
    save(before, 2)
    save(before, 4)
    shutil.copytree(before, run)
    total = calls(lambda: save(run, 6, name))
    moments = {*range(1, total, total // 12), *range(total - 60, total, 3)}  # renames come last
    seen = set()
    for moment in sorted(moments):
        shutil.rmtree(run)
        shutil.copytree(before, run)
        pid = os.fork()
        if not pid:
            calls(lambda: save(run, 6, name), moment)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        found, checkpoint = find_resume('c', str(run))
        assert 'Skipped' not in capfd.readouterr().err
        assert found == run
        assert not list(run.glob('.*'))
        folder = open_folder(checkpoint)
        assert folder.iteration in (4, 6)
        assert (dict(folder.tensors('model'))['weight'] == folder.iteration).all()
        assert open_folder(run / 'iter_2').iteration == 2
        seen.add(folder.iteration)
    assert seen == {4, 6}
