"""Where a run writes, and which run ``--resume`` means."""

from datetime import datetime
from pathlib import Path

from mmdet_seg.engine.checkpoint import newest_complete
from mmdet_seg.engine.checkpoint_folder import is_folder


def new_work_dir(stem: str, work_dir: str | None = None) -> Path:
    """``--work-dir`` as given, else ``work_dirs/<config>/<time>``, which no earlier run has."""
    if work_dir:
        return Path(work_dir)
    base = Path('work_dirs') / stem / datetime.now().strftime('%Y%m%d_%H%M%S')
    found, n = base, 2
    while found.exists():
        found, n = base.with_name(f'{base.name}_{n}'), n + 1
    return found


def find_resume(stem: str, resume: str, work_dir: str | None = None) -> tuple[Path, Path]:
    """Folder and checkpoint to continue: the newest complete one; others are named and skipped.

    Args:
        stem: Name of the config.
        resume: A checkpoint, a run's folder, or '' for the newest run of this config.
        work_dir: Given explicitly, it is where '' looks.

    Raises:
        FileNotFoundError: Nothing to continue.
    """
    if resume and (Path(resume).is_file() or is_folder(resume)):
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
        if checkpoint := newest_complete(folder):
            return folder, checkpoint
    where = folders[0] if resume or work_dir else Path('work_dirs') / stem
    raise FileNotFoundError(
        f'--resume: no complete checkpoint (iter_N) in {where}; leave --resume out to start anew.'
    )
