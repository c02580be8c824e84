"""A config's text is laid out once.

mmengine 0.10.7 formats a run's config four times with yapf (log, dump, message hub, visualizer),
half a second each for a long one: most of what a short run takes before its first iteration. Delete
when ``Config.pretty_text`` remembers its result.
"""

from functools import lru_cache
from types import ModuleType
from typing import Any


def patch(module: ModuleType) -> None:
    """Let ``mmengine.config.config`` remember the last texts that it formatted."""
    original = module.FormatCode
    if hasattr(original, 'remembered'):
        return

    @lru_cache(maxsize=4)
    def by_text(text: str, settings: tuple[tuple[str, Any], ...], **others: Any) -> Any:
        return original(text, style_config=dict(settings), **others)

    def format_code(text: str, style_config: dict[str, Any], **others: Any) -> Any:
        return by_text(text, tuple(sorted(style_config.items())), **others)

    format_code.remembered = by_text
    module.FormatCode = format_code
