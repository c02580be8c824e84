"""Where a run writes, and which run ``--resume`` means."""

import os
from datetime import datetime
from pathlib import Path

from mmdet_seg.backbones.run_folder import MANIFEST
from mmdet_seg.engine.checkpoint import newest_complete
from mmdet_seg.engine.checkpoint_folder import clear_leftovers, is_folder


def new_work_dir(stem: str, work_dir: str | None = None) -> Path:
    """``--work-dir`` as given, else ``work_dirs/<config>/<time>``, which no earlier run has."""
    if work_dir:
        return Path(work_dir)
    base = Path('work_dirs') / stem / datetime.now().strftime('%Y%m%d_%H%M%S')
    found, n = base, 2
    while found.exists():
        found, n = base.with_name(f'{base.name}_{n}'), n + 1
    return found


def empty_work_dir(stem: str, work_dir: str | None = None) -> Path:
    """:func:`new_work_dir` for a training: one that no earlier run keeps its checkpoints in.

    Raises:
        ValueError: It is a file, or holds checkpoints, which ``--resume`` could not tell from those
            of the new run.
    """
    folder = new_work_dir(stem, work_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'--work-dir {folder} is a file; name a folder.')
    if found := sorted(p.parent for p in folder.glob(f'*/{MANIFEST}')):
        raise ValueError(
            f'--work-dir {folder} holds checkpoints of an earlier run ({found[0].name}): continue '
            'it with --resume, choose another folder, or remove it first.'
        )
    return folder


def make_work_dir(folder: str) -> None:
    """Make the folder of a run and see that files can be written to it.

    Raises:
        ValueError: They cannot.
    """
    probe = Path(folder) / f'.{os.getpid()}'
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f'Nothing can be written to {folder} ({error.strerror}); choose another place with '
            '--work-dir DIR.'
        ) from error


def find_resume(stem: str, resume: str, work_dir: str | None = None) -> tuple[Path, Path]:
    """Folder and checkpoint to continue: the newest complete one; others are named and skipped.

    Args:
        stem: Name of the config.
        resume: A checkpoint, a run's folder, or '' for the newest run of this config.
        work_dir: Given explicitly, it is where '' looks.

    Raises:
        FileNotFoundError: Nothing to continue.
        ValueError: A file.
    """
    if resume and Path(resume).is_file():
        raise ValueError(
            f'--resume {resume}: a file is no checkpoint of a run; use its weights with '
            '--cfg-options load_from=... instead.'
        )
    if resume and is_folder(resume):
        return Path(work_dir) if work_dir else Path(resume).parent, Path(resume)
    if resume or work_dir:
        folders = [Path(resume or work_dir)]
        if not folders[0].is_dir():
            raise FileNotFoundError(
                f'--resume {folders[0]}: no such file or folder; give a checkpoint (iter_N) or '
                "a run's folder."
            )
    else:
        root = Path('work_dirs') / stem
        folders = sorted((p for p in root.glob('*') if p.is_dir()), reverse=True)
    for folder in folders:
        clear_leftovers(folder)
        if checkpoint := newest_complete(folder):
            return folder, checkpoint
    where = folders[0] if resume or work_dir else Path('work_dirs') / stem
    raise FileNotFoundError(
        f'--resume: no complete checkpoint (iter_N) in {where}; leave --resume out to start anew.'
    )
