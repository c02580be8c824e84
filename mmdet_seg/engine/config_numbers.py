"""Numbers of a training's config, looked at before anything is built from them."""

from typing import Any

from mmengine.config import Config

# Entry -> lowest value.
_WHOLE = {
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_dataloader.batch_size': 1,
    'train_dataloader.num_workers': 0,
    'optim_wrapper.accumulative_counts': 1,
    'default_hooks.checkpoint.interval': -1,  # mmengine's for never
    'default_hooks.checkpoint.max_keep_ckpts': -1,  # mmengine's for all
    'nonfinite_limit': 0,
    'unreadable_limit': 0,
    'randomness.seed': 0,
}
_REAL = {'optim_wrapper.optimizer.lr': 0.0, 'optim_wrapper.clip_grad.max_norm': 0.0}
_TABLES = {'ema': 'ema.decay=0.9998'}


def check_numbers(cfg: Config) -> None:
    """See that numbers are numbers, and large enough.

    Raises:
        ValueError: Names the entry, what it is and what it has to be.
    """
    for key, lowest in _WHOLE.items():
        value = _at(cfg, key)
        if value is not None and (not _is(value, int) or value < lowest):
            raise ValueError(f'{key}={value} is not a whole number of at least {lowest}.')
    for key, lowest in _REAL.items():
        value = _at(cfg, key)
        if value is not None and (not _is(value, int | float) or not value >= lowest):
            raise ValueError(f'{key}={value} is not a number of at least {lowest:g}.')
    for key, example in _TABLES.items():
        value = _at(cfg, key)
        if value and not isinstance(value, dict):
            raise ValueError(f'{key}={value} says nothing about it; set it as {example}.')


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _at(cfg: Config, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    value: Any = cfg
    for part in key.split('.'):
        value = value.get(part) if hasattr(value, 'get') else None
    return value
