"""Scenes on disk: the same bytes every time, whole or not there."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdet_seg.datasets import scenes_files
from mmdet_seg.datasets.scenes import make_scene
from mmdet_seg.datasets.scenes_files import content_hash, image_size, prepare_scenes, read_manifest

SMALL = dict(num_train=5, num_val=3, seed=4, size=(96, 128), progress=False)


@pytest.fixture(scope='module')
def small_set(tmp_path_factory) -> Path:
    return prepare_scenes(tmp_path_factory.mktemp('scenes'), num_processes=2, **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()
    }


def leftovers(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if 'partial' in p.name]


def test_layout_is_that_of_ade20k_and_coco(small_set) -> None:
    names = set(contents(small_set))
    assert 'images/training/scene_train_00000005.jpg' in names
    assert 'annotations/validation/scene_val_00000003.png' in names
    assert {'annotations/instances_train.json', 'annotations/instances_val.json'} <= names
    assert len(names) == 2 * (5 + 3) + 2 + 1


def test_bytes_do_not_depend_on_processes_or_on_how_many_images(small_set, tmp_path) -> None:
    one = prepare_scenes(tmp_path / 'one', num_processes=1, **SMALL)
    assert contents(one) == contents(small_set)
    fewer = prepare_scenes(tmp_path / 'fewer', num_processes=2, **{**SMALL, 'num_train': 2})
    for name, data in contents(fewer).items():
        if name.endswith(('.jpg', '.png')):
            assert contents(small_set)[name] == data


def test_drawing_in_processes_after_opencv_has_used_threads_does_not_hang(tmp_path) -> None:
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (0, 0), 9)  # starts OpenCV's threads
    prepare_scenes(tmp_path, num_processes=2, **{**SMALL, 'num_train': 1, 'num_val': 1})
    assert cv2.getNumThreads() == 4


def test_files_hold_what_make_scene_draws(small_set) -> None:
    scene = make_scene((4, 1, 2), image_size(2, (96, 128)))
    mask = cv2.imread(str(small_set / 'annotations/validation/scene_val_00000003.png'), -1)
    image = cv2.imread(str(small_set / 'images/validation/scene_val_00000003.jpg'))[..., ::-1]
    assert np.array_equal(mask, scene.mask)
    assert image.shape == scene.image.shape == (128, 96, 3)
    assert np.abs(image.astype(int) - scene.image).mean() < 8  # JPEG
    assert np.abs(image[..., ::-1].astype(int) - scene.image).mean() > 10  # and not BGR


def test_aspect_ratios_vary_and_areas_do_not() -> None:
    sizes = [image_size(index, (256, 320)) for index in range(8)]
    assert len(set(sizes)) == 4
    assert all(0.9 < h * w / (256 * 320) < 1.1 for h, w in sizes)


def test_manifest_records_parameters_and_content(small_set) -> None:
    manifest = read_manifest(small_set)
    assert manifest['parameters'] == {'num_train': 5, 'num_val': 3, 'seed': 4, 'size': [96, 128]}
    assert manifest['sha256'] == content_hash(small_set)


def test_a_finished_set_is_not_written_again(small_set) -> None:
    before = {p: p.stat().st_mtime_ns for p in small_set.rglob('*')}
    assert prepare_scenes(small_set.parent, num_processes=1, **SMALL) == small_set
    assert {p: p.stat().st_mtime_ns for p in small_set.rglob('*')} == before


def test_other_parameters_give_another_folder(small_set) -> None:
    before = contents(small_set)
    other = prepare_scenes(small_set.parent, **{**SMALL, 'seed': 5, 'num_train': 1, 'num_val': 1})
    assert other != small_set
    assert contents(small_set) == before
    assert read_manifest(other)['sha256'] != read_manifest(small_set)['sha256']


@pytest.mark.parametrize('damage', ['file missing', 'manifest cut', 'other manifest'])
def test_a_damaged_set_is_written_again(tmp_path, damage) -> None:
    parameters = {**SMALL, 'num_train': 2, 'num_val': 1}
    folder = prepare_scenes(tmp_path, **parameters)
    before = contents(folder)
    manifest = folder / 'manifest.json'
    if damage == 'file missing':
        (folder / 'images/training/scene_train_00000002.jpg').unlink()
    elif damage == 'manifest cut':
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text(json.dumps({**read_manifest(folder), 'version': -1}))
    assert prepare_scenes(tmp_path, **parameters) == folder
    assert contents(folder) == before


def test_somebody_elses_folder_is_left_alone(tmp_path, small_set) -> None:
    folder = tmp_path / small_set.name
    folder.mkdir()
    (folder / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='is not a set of scenes') as caught:
        prepare_scenes(tmp_path, **SMALL)
    assert '\n' not in str(caught.value)
    assert contents(folder) == {'thesis.txt': b'mine'}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'num_train': 0}, r'num_train=0 is not a whole number of at least 1\.'),
        ({'seed': -1}, r'seed=-1 is not a whole number of at least 0\.'),
        ({'num_processes': 0}, r'num_processes=0 is not'),
        ({'size': (256, 32)}, r'size=\(256, 32\) is not \(height, width\)'),
    ],
)
def test_bad_parameters_are_refused_in_one_line(tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_scenes(tmp_path, **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_refused_in_one_line(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'Cannot write scenes to .* choose another data_root'):
        prepare_scenes(tmp_path / 'file' / 'scenes', **SMALL)


def test_an_interrupted_write_leaves_nothing_and_is_done_again(
    tmp_path, monkeypatch, small_set
) -> None:
    drawn = []

    def interrupted(*args):
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return make_scene(*args)

    monkeypatch.setattr(scenes_files, 'make_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_scenes(tmp_path, num_processes=1, **SMALL)
    assert not (tmp_path / small_set.name).exists()
    assert leftovers(tmp_path) == []
    monkeypatch.undo()
    assert contents(prepare_scenes(tmp_path, num_processes=1, **SMALL)) == contents(small_set)


def start(root: Path) -> multiprocessing.Process:
    """Another process that prepares the small set."""
    cv2.setNumThreads(1)  # OpenCV's threads do not survive the fork
    process = multiprocessing.get_context('fork').Process(
        target=prepare_scenes, args=(root,), kwargs={**SMALL, 'num_processes': 1}
    )
    process.start()
    return process


fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='the test needs fork')


@fork
def test_a_killed_write_is_done_again(tmp_path, small_set) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob('.*/images/training/*.jpg')):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(leftovers(tmp_path)) == 1
    assert not (tmp_path / small_set.name).exists()
    assert contents(prepare_scenes(tmp_path, num_processes=1, **SMALL)) == contents(small_set)
    assert leftovers(tmp_path) == []


@fork
def test_processes_that_prepare_at_once_end_with_one_whole_set(tmp_path, small_set) -> None:
    processes = [start(tmp_path) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert leftovers(tmp_path) == []
    assert contents(tmp_path / small_set.name) == contents(small_set)


def test_progress_goes_to_stderr_and_only_when_it_takes_long(tmp_path, monkeypatch, capsys) -> None:
    parameters = {**SMALL, 'num_train': 2, 'num_val': 1, 'num_processes': 1, 'progress': True}
    monkeypatch.setattr(scenes_files, '_QUIET_SECONDS', 60.0)
    prepare_scenes(tmp_path / 'quick', **parameters)
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(scenes_files, '_QUIET_SECONDS', 0.0)
    monkeypatch.setenv('FORCE_COLOR', '1')
    prepare_scenes(tmp_path / 'slow', **parameters)
    out, err = capsys.readouterr()
    assert out == ''
    assert 'drawing scenes' in err
