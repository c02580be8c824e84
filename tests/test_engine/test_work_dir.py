"""Which run is meant by --resume, and that a new run overwrites none."""

from pathlib import Path

import pytest

from mmdet_seg.engine.work_dir import find_resume, new_work_dir


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, checkpoints in (('1', (2, 10)), ('2', (4,)), ('3', ())):
        folder = tmp_path / 'work_dirs' / 'c' / name
        folder.mkdir(parents=True)
        for n in checkpoints:
            (folder / f'iter_{n}.pth').touch()
    return Path('work_dirs/c')


def test_the_newest_run_that_has_a_checkpoint(runs):
    assert find_resume('c', '') == (runs / '2', runs / '2/iter_4.pth')
    assert find_resume('c', str(runs / '1')) == (runs / '1', runs / '1/iter_10.pth')
    assert find_resume('c', '', str(runs / '1')) == (runs / '1', runs / '1/iter_10.pth')
    one = runs / '1/iter_2.pth'
    assert find_resume('c', str(one)) == (runs / '1', one)
    assert find_resume('c', str(one), 'elsewhere') == (Path('elsewhere'), one)


def test_the_pointer_is_followed_where_a_run_was_moved_to(runs):
    (runs / '1/last_checkpoint').write_text('/somewhere/else/iter_2.pth')
    assert find_resume('c', str(runs / '1'))[1] == runs / '1/iter_2.pth'


def test_nothing_to_resume(runs):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint \(iter_N.pth\) in work_dirs/d'):
        find_resume('d', '')
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        find_resume('c', 'nowhere')
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        find_resume('c', str(runs / '3'))


def test_two_runs_in_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = set()
    for _ in range(3):
        folder = new_work_dir('c')
        folder.mkdir(parents=True)
        seen.add(folder)
    assert len(seen) == 3
