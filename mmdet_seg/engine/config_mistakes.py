"""What a config gets wrong, as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from mmengine.config import Config

# In what registries and constructors say about a config.
_HINTS = ('keyword argument', 'positional argument', 'registry', 'must contain the key "type"')
_THEIRS = ('mmengine', 'mmcv', 'mmseg', 'mmdet')


@contextmanager
def one_line_mistakes(cfg: Config) -> Iterator[None]:
    """Turn what registries and constructors say about a config into a :class:`ValueError`."""
    try:
        yield
    except (TypeError, KeyError) as error:
        text = str(error.args[0]) if error.args else ''
        if any(hint in text for hint in _HINTS):
            text = text.partition(' Please check whether')[0]
            raise ValueError(f'{cfg.filename}: {text}') from error
        raise
    except AssertionError as error:  # theirs tell users; ours are for us
        *_, (frame, _) = walk_tb(error.__traceback__)
        if not error.args or frame.f_globals['__name__'].partition('.')[0] not in _THEIRS:
            raise
        raise ValueError(f'{cfg.filename}: {error}') from error
