"""What a run says of itself: its folder, machine and memory."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger

from mmdet_seg import command_line
from mmdet_seg.engine.process_memory import peak_bytes
from mmdet_seg.engine.work_dir import new_work_dir


def hush() -> None:
    """Keep from the terminal what mmengine and mmseg log."""
    if not MMLogger.check_instance_created('probe'):
        MMLogger.get_instance('probe', log_level='ERROR')


def run_folder(job: str, out: str | Path | None = None) -> Path:
    """``--out`` as given, else ``work_dirs/probe_<job>/<time>``, made if it is not there."""
    folder = new_work_dir(f'probe_{job}', str(out) if out else None)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command_words() -> list[str]:
    """The command line, one word an entry, without the tool's folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def machine_facts(device: torch.device | str = 'cpu') -> dict[str, Any]:
    """The ``machine`` entry of the results."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type
    return {
        'cpu': command_line.machine().split(',', 1)[0],
        'cores': len(os.sched_getaffinity(0))
        if hasattr(os, 'sched_getaffinity')
        else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'device': name,
        'torch': torch.__version__,
    }


def peak_memory(device: torch.device | str = 'cpu') -> int:
    """Most bytes held so far: the device's by PyTorch, or the process's on a CPU."""
    device = torch.device(device)
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else peak_bytes()


def now() -> str:
    """Date and time of day, ISO 8601, with the offset from UTC."""
    return datetime.now().astimezone().isoformat(timespec='seconds')
