"""Memory of this process, from the kernel."""

import resource
from pathlib import Path


def memory_status() -> dict[str, int]:
    """Bytes by name (VmHWM, VmRSS, RssAnon, RssFile); empty where there is no /proc."""
    path = Path('/proc/self/status')
    lines = path.read_text().splitlines() if path.is_file() else []
    wanted = ('VmHWM', 'VmRSS', 'RssAnon', 'RssFile')
    found = (line.split() for line in lines if line.startswith(wanted))
    return {name.rstrip(':'): int(value) * 1024 for name, value, *_ in found}


def peak_bytes() -> int:
    """VmHWM; where there is none ru_maxrss, which can be that of the process that started us."""
    if 'VmHWM' in (status := memory_status()):
        return status['VmHWM']
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes() -> int | None:
    """Memory of the machine that programs can still get; None where there is no /proc."""
    path = Path('/proc/meminfo')
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    return None
