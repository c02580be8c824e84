"""Scenes on disk, in ADE20K's and in COCO's layout at once.

Layout of one set::

    <root>/scenes-v1-seed0-600+100-256x320/
        images/training/scene_train_00000001.jpg      annotations/training/scene_train_00000001.png
        images/validation/scene_val_00000001.jpg      annotations/validation/scene_val_00000001.png
        annotations/instances_train.json              annotations/instances_val.json
        manifest.json                                 parameters, generator version, content hash

A set is written aside and renamed when it is whole, one process at a time; other parameters give
another folder.
"""

import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmdet_seg.datasets.scene_classes import CLASSES
from mmdet_seg.datasets.scenes import GENERATOR_VERSION, SMALLEST_SIDE, make_scene
from mmdet_seg.datasets.scenes_coco import annotate, coco_file

MANIFEST = 'manifest.json'
SPLITS = {'training': 'train', 'validation': 'val'}  # ADE20K's name: COCO's name
_QUIET_SECONDS = 1.0  # the progress bar comes up after this long


def prepare_scenes(
    root: str | Path,
    num_train: int = 600,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (256, 320),
    num_processes: int = 2,
    progress: bool = True,
) -> Path:
    """Write a set of scenes, unless it is there already.

    Args:
        root: Folder that holds one sub-folder per set of parameters.
        num_train: Training images.
        num_val: Validation images.
        seed: The images depend on it and on nothing else that varies: not on ``num_processes``,
            nor on how many there are.
        size: Typical height and width in pixels; the pictures' aspect ratios vary around it.
        num_processes: Processes that draw.
        progress: Show a progress bar on stderr when it takes more than a second.

    Returns:
        The set's folder, to be used as ``data_root``.

    Raises:
        ValueError: A parameter is out of range, or something else stands where the set belongs.
    """
    parameters = _checked_parameters(num_train, num_val, seed, size, num_processes)
    height, width = parameters['size']
    name = f'scenes-v{GENERATOR_VERSION}-seed{seed}-{num_train}+{num_val}-{height}x{width}'
    target = Path(root) / name
    if _is_whole(target, parameters):
        return target
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Cannot write scenes to '{root}': {error.strerror}; choose another data_root."
        ) from error
    with FileLock(Path(root) / f'.{name}.lock'):
        if _is_whole(target, parameters):  # another process wrote it while this one waited
            return target
        if target.exists() and not (target / MANIFEST).is_file():
            raise ValueError(
                f"'{target}' is not a set of scenes (it has no {MANIFEST}); move it away or choose "
                'another data_root.'
            )
        # The lock is ours, so what is half written comes from runs that were interrupted.
        for leftover in Path(root).glob(f'.{name}.partial-*'):
            shutil.rmtree(leftover)
        partial_folder = Path(root) / f'.{name}.partial-{uuid.uuid4().hex[:8]}'
        try:
            _write_set(partial_folder, parameters, num_processes, progress)
            if target.exists():
                shutil.rmtree(target)
            partial_folder.rename(target)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)
    return target


def read_manifest(folder: str | Path) -> dict | None:
    """The manifest of a set of scenes; None where there is none, or not one of ours."""
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and {'version', 'parameters', 'sha256'} <= set(content)
    return content if ours else None


def content_hash(folder: str | Path) -> str:
    """SHA-256 over names and contents of a set's files, as its manifest records it."""
    folder = Path(folder)
    return _combined_hash(
        (path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob('*')
        if path.is_file() and path.name != MANIFEST
    )


def image_size(index: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image: as asked, square, turned and wide take turns."""
    height, width = size
    if index % 4 == 0:
        return height, width
    if index % 4 == 2:
        return width, height
    area = height * width
    tall = (area if index % 4 == 1 else area * 0.6) ** 0.5
    tall = max(SMALLEST_SIDE, round(tall / 16) * 16)
    return tall, max(SMALLEST_SIDE, round(area / tall / 16) * 16)


def _checked_parameters(
    num_train: int, num_val: int, seed: int, size: tuple[int, int], num_processes: int
) -> dict:
    for name, value, low in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('seed', seed, 0),
        ('num_processes', num_processes, 1),
    ):
        if not isinstance(value, int) or value < low:
            raise ValueError(f'{name}={value} is not a whole number of at least {low}.')
    if len(size) != 2 or min(size) < SMALLEST_SIDE:
        raise ValueError(
            f'size={tuple(size)} is not (height, width) with sides of at least {SMALLEST_SIDE}.'
        )
    return {
        'num_train': num_train,
        'num_val': num_val,
        'seed': seed,
        'size': [int(v) for v in size],
    }


def _is_whole(folder: Path, parameters: dict) -> bool:
    """Whether a finished set with these parameters is there, with all its files."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    known = (manifest.get('version'), manifest.get('parameters'))
    if known != (GENERATOR_VERSION, parameters):
        return False
    sizes = [p.stat().st_size for p in folder.rglob('*') if p.is_file() and p.name != MANIFEST]
    return (len(sizes), sum(sizes)) == (manifest.get('num_files'), manifest.get('num_bytes'))


def _write_set(folder: Path, parameters: dict, num_processes: int, progress: bool) -> None:
    jobs = []
    for number, (split, short) in enumerate(SPLITS.items()):
        (folder / 'images' / split).mkdir(parents=True)
        (folder / 'annotations' / split).mkdir(parents=True)
        jobs += [(number, split, short, index) for index in range(parameters[f'num_{short}'])]
    draw = partial(_write_scene, folder, parameters['seed'], tuple(parameters['size']))
    files: list[tuple[str, str]] = []
    entries: dict[str, list] = {split: [] for split in SPLITS}
    for job, result in zip(jobs, _tracked(draw, jobs, num_processes, progress), strict=True):
        new_files, entry = result
        files += new_files
        entries[job[1]].append(entry)
    for split, short in SPLITS.items():
        name = f'annotations/instances_{short}.json'
        text = json.dumps(
            coco_file(entries[split], f'Built-in scenes, {split}'), separators=(',', ':')
        )
        (folder / name).write_text(text)
        files.append((name, hashlib.sha256(text.encode()).hexdigest()))
    manifest = {
        'version': GENERATOR_VERSION,
        'parameters': parameters,
        'classes': list(CLASSES),
        'num_files': len(files),
        'num_bytes': sum((folder / name).stat().st_size for name, _ in files),
        'sha256': _combined_hash(files),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')


def _write_scene(
    folder: Path, seed: int, size: tuple[int, int], job: tuple[int, str, str, int]
) -> tuple[list[tuple[str, str]], tuple]:
    """Draw one scene; returns (name, hash) of its files and its entry for the COCO file."""
    number, split, short, index = job
    scene = make_scene((seed, number, index), image_size(index, size))
    stem = f'scene_{short}_{index + 1:08d}'
    quality = [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
    bgr = scene.image[..., ::-1]  # what OpenCV takes an image to be
    files = []
    for name, suffix, pixels, options in (
        (f'images/{split}/{stem}.jpg', '.jpg', bgr, quality),
        (f'annotations/{split}/{stem}.png', '.png', scene.mask, []),
    ):
        content = cv2.imencode(suffix, pixels, options)[1].tobytes()
        (folder / name).write_bytes(content)
        files.append((name, hashlib.sha256(content).hexdigest()))
    annotations = [annotate(instance) for instance in scene.instances]
    return files, (f'{stem}.jpg', scene.mask.shape, annotations)


def _combined_hash(files: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    lines = ''.join(f'{digest}  {name}\n' for name, digest in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    cv2.setNumThreads(1)


def _tracked(draw: partial, jobs: list, num_processes: int, progress: bool) -> Iterator:
    """Results of ``draw`` over ``jobs`` in order, with a progress bar when it takes long."""
    bar = Progress(
        TextColumn('drawing scenes'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    )
    task = bar.add_task('', total=len(jobs))
    started = time.monotonic()
    # Forked workers start at once; a spawned one would import torch first. OpenCV's threads do not
    # survive a fork, and a worker would wait for them for ever, so they are stopped for the while.
    method = 'fork' if sys.platform.startswith('linux') else 'spawn'
    opencv_threads = cv2.getNumThreads()
    pool = None
    if num_processes > 1 and not multiprocessing.current_process().daemon:
        cv2.setNumThreads(1)
        context = multiprocessing.get_context(method)
        pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start_worker)
    try:
        for result in pool.map(draw, jobs, chunksize=4) if pool else map(draw, jobs):
            if not bar.live.is_started and time.monotonic() - started > _QUIET_SECONDS:
                bar.start()
            bar.advance(task)
            yield result
    finally:
        if bar.live.is_started:
            bar.stop()
        if pool:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(opencv_threads)
