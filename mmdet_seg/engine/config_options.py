"""Single entries of a config, changed from the command line."""

from collections.abc import Iterator
from difflib import get_close_matches
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

# What is read beside the arguments of mmengine's runner: by mmengine, by our runner, and where a
# recipe is completed.
_READ = {
    *('compile', 'efficient_conv_bn_eval', 'activation_checkpointing', 'model_wrapper_cfg'),
    *('compile_blocks', 'ema', 'find_unused_parameters', 'nonfinite_limit', 'strategy', 'subset'),
    *('sync_bn', 'unreadable_limit'),
    *('crop_size', 'slide_stride', 'num_classes', 'num_things_classes', 'num_stuff_classes'),
    *('object_scale', 'semantic_classes', 'published_miou'),
    *signature(Runner.__init__).parameters,
}


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Change entries of a config.

    Args:
        cfg: The config.
        options: Dotted keys to values.

    Raises:
        ValueError: An entry that there is not, that nothing reads any more, or that cannot be.
    """
    for key, value in options.items():
        _check_first(cfg, key, value)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, AssertionError, IndexError) as error:
            reason = error.args[0] if error.args else type(error).__name__
            raise ValueError(f'--cfg-options {key}={value}: {reason}') from error


def _check_first(cfg: Config, key: str, value: Any) -> None:
    """A name that only the config itself used has done its work before any option comes."""
    first = key.partition('.')[0]
    if first in _READ:
        return
    deeper = sorted(_places(cfg, first, ''), key=lambda place: place.count('.'))
    if first in cfg and not deeper:  # somebody's own code may read it
        return
    hint = 'look at the config.'
    if deeper:
        hint = f'set {deeper[0]}.'
    elif close := get_close_matches(first, {*cfg, *_READ}, n=1):
        hint = f'did you mean {close[0]}?'
    raise ValueError(f'--cfg-options {key}={value}: nothing reads {first}; {hint}')


def _places(entry: Any, name: str, path: str) -> Iterator[str]:
    """Dotted keys of this name, deeper than the first level."""
    items = entry.items() if hasattr(entry, 'items') else ()
    if isinstance(entry, list | tuple):
        items = ((str(i), x) for i, x in enumerate(entry))
    for key, value in items:
        if path and key == name:
            yield f'{path}{key}'
        yield from _places(value, name, f'{path}{key}.')
