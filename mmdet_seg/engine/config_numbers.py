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
_CLIP = {'type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value'}
_TABLES = {
    'ema': 'ema.decay=0.9998',
    'optim_wrapper.clip_grad': 'optim_wrapper.clip_grad.max_norm=0.1',
}


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
    rate = _at(cfg, 'model.backbone.drop_path_rate')
    if rate is not None and (not _is(rate, int | float) or not 0 <= rate < 1):
        raise ValueError(f'model.backbone.drop_path_rate={rate} is not in [0, 1), as 0.2.')
    clip = _at(cfg, 'optim_wrapper.clip_grad')
    if isinstance(clip, dict) and (wrong := sorted(set(clip) - _CLIP)):
        raise ValueError(
            f'optim_wrapper.clip_grad.{wrong[0]}: there are {", ".join(sorted(_CLIP))}.'
        )
    for key, example in _TABLES.items():
        value = _at(cfg, key)
        if value and not isinstance(value, dict):
            raise ValueError(f'{key}={value} says nothing about it; set it as {example}.')


def check_crop(size: Any) -> None:
    """See that a crop is height and width.

    Raises:
        ValueError: It is something else.
    """
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(_is(side, int) and side > 0 for side in sides):
        raise ValueError(f'crop_size={size} is not two whole numbers of pixels, as (224,224).')


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _at(cfg: Config, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    value: Any = cfg
    for part in key.split('.'):
        value = value.get(part) if hasattr(value, 'get') else None
    return value
