"""Evaluate (config, checkpoint) pairs, each in processes of its own, into one table."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdet_seg import command_line
from mmdet_seg.engine.checkpoint import check_exists
from mmdet_seg.engine.checkpoint_folder import MANIFEST
from mmdet_seg.engine.progress_hook import clock
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.segmentation_list import Pair, read_list
from mmdet_seg.engine.segmentation_table import markdown, write_tables

_STEP = 0.1  # seconds between looks at the processes


def run(path: str, out: str, processes: int = 1) -> int:
    """Evaluate what is not there yet and write the table after every pair.

    A pair is known by its complete config, the bytes of its checkpoint and how it is evaluated, so
    an interrupted run goes on where it stopped and a changed file is evaluated anew.

    Args:
        path: LIST, see :func:`mmdet_seg.engine.segmentation_list.read_list`.
        out: Folder for table.md, .csv, .json, .png and ``pairs/``, a result and a log per pair.
        processes: Share the images of every evaluation.

    Returns:
        Exit status: 0, or 1 where a pair failed; the table says why.

    Raises:
        ValueError: The list cannot be read, or too few processes.
    """
    if processes < 1:
        raise ValueError(f'--processes {processes}: at least 1.')
    pairs = read_list(path)
    folder = Path(out)
    (folder / 'pairs').mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    spent, measured = 0.0, 0
    for number, pair in enumerate(pairs, 1):
        start = time.monotonic()
        row, new = _row(pair, folder / 'pairs', processes)
        spent, measured = spent + new * (time.monotonic() - start), measured + new
        rows.append(row)
        write_tables(folder, rows)
        said = row['error'] or f'mIoU {row["metrics"]["mIoU"]:.2f}'
        left = f'  {clock(spent / measured * (len(pairs) - number))} left' if measured else ''
        note = '' if new or row['error'] else '  (evaluated before)'
        command_line.note(f'{number}/{len(pairs)}  {pair.title}: {said}{note}{left}')
    print(f'{markdown(rows)}\n{folder}: table.md, table.csv, table.json, table.png')
    return command_line.FAILED if any(row['error'] for row in rows) else command_line.OK


def key(pair: Pair, config_text: str) -> str:
    """Names what is evaluated: 16 hexadecimal digits."""
    digest = hashlib.sha256(config_text.encode())
    checkpoint = Path(pair.checkpoint)
    # A folder's manifest has the hashes of its files.
    with (checkpoint / MANIFEST if checkpoint.is_dir() else checkpoint).open('rb') as file:
        while part := file.read(1 << 24):
            digest.update(part)
    digest.update(json.dumps([pair.protocol, pair.tta]).encode())
    return digest.hexdigest()[:16]


def _row(pair: Pair, folder: Path, processes: int) -> tuple[dict[str, Any], bool]:
    """A row of the table, and whether it was measured now."""
    row = {'title': pair.title, **asdict(pair), 'error': None}
    try:
        check_exists(pair.checkpoint)
        cfg = load_recipe(
            pair.config,
            arch=pair.arch,
            data=pair.data,
            options=pair.options or None,
            protocol=pair.protocol,
        )
        name = key(pair, cfg.pretty_text)
    except (ValueError, FileNotFoundError) as error:
        return {**row, 'error': command_line.one_line(error)}, False
    if row['published'] is None and isinstance(cfg.get('published_miou'), int | float):
        row['published'] = cfg.published_miou
    kept = folder / f'{name}.json'
    row['key'] = name
    if kept.is_file():
        return {**row, **json.loads(kept.read_text())}, False
    result = _measure(pair, folder / name, processes)
    if 'error' not in result:
        aside = kept.with_suffix('.part')
        aside.write_text(json.dumps(result, indent=1) + '\n')
        aside.replace(kept)
    return {**row, **result}, True


def _measure(pair: Pair, work: Path, processes: int) -> dict[str, Any]:
    """Run the processes of one pair; what they print goes to ``log_RANK.txt`` in ``work``."""
    shutil.rmtree(work, ignore_errors=True)  # of an evaluation that did not end
    work.mkdir(parents=True, exist_ok=True)
    job = work / 'job.json'
    job.write_text(json.dumps({**asdict(pair), 'work_dir': str(work)}))
    command = [sys.executable, '-m', 'mmdet_seg.engine.segmentation_process', str(job)]
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
    env |= {'WORLD_SIZE': str(processes), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': _free_port()}
    if processes > 1:
        env.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // processes)))
    started: list[subprocess.Popen] = []
    try:
        for rank in range(processes):
            ranked = {**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
            shown = rank == 0 and sys.stderr.isatty()  # its progress bar
            with open(work / f'log_{rank}.txt', 'w') as log:
                to = dict(stdout=log, stderr=None if shown else log)
                started.append(subprocess.Popen(command, env=ranked, **to))
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started):
            time.sleep(_STEP)
    finally:  # one failed, or Ctrl-C: the others would wait for ever
        for process in started:
            if process.poll() is None:
                process.terminate()
        codes = [process.wait() for process in started]
    found = [json.loads(p.read_text()) for p in sorted(work.glob('job.result_*.json'))]
    for result in found:
        if 'error' in result:
            return result
    if any(codes) or not found:
        code = next((c for c in codes if c), 0)
        killed = ': out of memory?' if code == -signal.SIGKILL else ''
        return {'error': f'ended with status {code}{killed} (see {work}/log_0.txt)'}
    return found[0]


def _free_port() -> str:
    with socket.socket() as door:
        door.bind(('127.0.0.1', 0))
        return str(door.getsockname()[1])
