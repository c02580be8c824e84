"""Finding a config by what a person types."""

from difflib import get_close_matches
from pathlib import Path

CONFIG_ROOT = Path(__file__).parent / 'configs'


def resolve_config(name: str) -> Path:
    """Path of a config: as typed, then inside the package, then by its bare name.

    ``configs/upernet_internvit.py`` works from any folder: the file lies in the package.

    Raises:
        FileNotFoundError: Nothing fits; names the nearest configs.
    """
    typed = Path(name)
    if not typed.name:
        raise FileNotFoundError(f'No config {name!r}; name one, such as upernet_internvit.')
    if typed.is_file():
        return typed
    inside = Path(*typed.parts[1:]) if typed.parts[:1] == ('configs',) else typed
    for candidate in (inside, inside.with_suffix('.py')):
        if not candidate.is_absolute() and (CONFIG_ROOT / candidate).is_file():
            return CONFIG_ROOT / candidate
    shipped = {p.stem: p for p in leaves()}
    if typed.stem in shipped and len(typed.parts) == 1:
        return shipped[typed.stem]
    close = get_close_matches(typed.stem, shipped, n=3, cutoff=0.5)
    hint = f'Did you mean {" or ".join(close)}?' if close else f'There are: {", ".join(shipped)}.'
    raise FileNotFoundError(f'No config {name!r} here or in the package. {hint}')


def leaves() -> list[Path]:
    """Every config that can be run, sorted; bases start with an underscore."""
    found = (p for p in CONFIG_ROOT.rglob('*.py') if p.name != '__init__.py')
    return sorted(
        p for p in found if not any(x.startswith('_') for x in p.relative_to(CONFIG_ROOT).parts)
    )
