"""The project's own files: what git keeps, or all of an unpacked archive."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
_MADE = {'build', 'data', 'dist', 'work_dirs'}  # by tools, at the top


def kept_files(*under: str) -> list[str]:
    """Names of files, relative to the project, in the files and folders given (default: all)."""
    if (ROOT / '.git').exists():
        listed = subprocess.run(
            ['git', 'ls-files', '-co', '--exclude-standard', *under],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        return [name for name in listed if (ROOT / name).exists()]
    inside = [p.relative_to(ROOT) for p in ROOT.rglob('*') if p.is_file()]
    wanted = [Path(name) for name in under or ['.']]
    return [
        p.as_posix()
        for p in inside
        if p.parts[0] not in _MADE
        and not any(x.startswith('.') or x == '__pycache__' or '.egg' in x for x in p.parts)
        and any(p.is_relative_to(w) for w in wanted)
    ]
