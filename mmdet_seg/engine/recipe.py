"""From what a person types to a complete config."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_seg.backbones.variants import Arch, even_taps, get_arch
from mmdet_seg.config_path import CONFIG_ROOT, resolve_config
from mmdet_seg.datasets.folder_index import read_index

DATA_ROOT = CONFIG_ROOT / '_base_' / 'data'
# Channels of heads with convolutions: 1536 was published for 6B, 512 is mmseg's usual width.
_HEAD_CHANNELS = {3200: 1536, 1024: 512}
# The linear probe's published tap is block 44 (from 0), also in encoders of 48 blocks.
_LINEAR_TAP = 44


def load_recipe(
    config: str,
    *,
    arch: str | None = None,
    data: str | None = None,
    options: dict[str, Any] | None = None,
) -> Config:
    """Load a config and apply ``--arch``, ``--data`` and ``--cfg-options``, in that order.

    Args:
        config: Path or name, see :func:`mmdet_seg.config_path.resolve_config`.
        arch: Name of an encoder in :data:`mmdet_seg.backbones.ARCHS`.
        data: Name of a file in ``configs/_base_/data``, or a folder that ``tools/prepare.py check``
            has prepared.
        options: Dotted keys to values.

    Raises:
        FileNotFoundError: No such config.
        ValueError: No such encoder or data, or an option that the config does not take.
    """
    path = resolve_config(config)
    try:
        cfg = Config.fromfile(str(path))
    except (SyntaxError, NameError, ImportError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is not a config that can be read: {error}') from error
    if 'model' not in cfg:
        raise ValueError(f'{path} has no `model`: it is a base for other configs, not a run.')
    if data:
        _apply_data(cfg, data, arch)
    if arch:
        _apply_arch(cfg, arch)
    if options:
        _apply_options(cfg, options)
    _complete(cfg)
    return cfg


def data_names() -> list[str]:
    """What ``--data`` takes."""
    return sorted(p.stem for p in DATA_ROOT.glob('*.py') if not p.stem.startswith('_'))


def _apply_data(cfg: Config, name: str, arch: str | None) -> None:
    names = data_names()
    if name in names:
        overlay = Config.fromfile(str(DATA_ROOT / f'{name}.py'))
    elif Path(name).is_dir():
        overlay = _folder_data(name, arch)
    else:
        close = get_close_matches(name, names, n=1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise ValueError(
            f'--data {name}: there are {", ".join(names)}, or a folder of your own that '
            f'tools/prepare.py check has prepared.{hint}'
        )
    for key in ('slide_stride', 'crop_size', 'num_classes'):
        cfg.pop(key, None)
    runtime = Config.fromfile(str(DATA_ROOT.parent / 'runtime.py'))
    for key, value in overlay.items():
        if key == 'default_hooks':
            cfg.merge_from_dict({key: value})
        elif key not in runtime:  # replaced, not merged: leftovers would be silent damage
            cfg[key] = value


def _folder_data(folder: str, arch: str | None) -> Config:
    """Data config of a prepared folder: crop 504 for encoders with published weights, else 224."""
    index = read_index(folder)
    published = arch is not None and get_arch(arch).hub_id
    base = '_folder_504' if published else '_folder'
    overlay = Config.fromfile(str(DATA_ROOT / f'{base}.py'))
    overlay.num_classes = len(index.classes)
    for split in ('train', 'val', 'test'):
        overlay[f'{split}_dataloader'].dataset.data_root = folder
    return overlay


def _apply_arch(cfg: Config, name: str) -> None:
    arch = get_arch(name)
    backbone = cfg.model.backbone
    if 'arch' not in backbone:
        raise ValueError(
            f'--arch {name}: the config has no InternViT in model.backbone to replace; '
            'leave --arch out or set model.backbone.type=mmdet_seg.InternViT.'
        )
    backbone.arch = name
    backbone.out_indices = _taps(arch, backbone.get('out_indices', -1))
    backbone.pop('drop_path_rate', None)
    backbone.pop('init_cfg', None)
    for head in _heads(cfg):
        if 'channels' in head and arch.embed_dim in _HEAD_CHANNELS:
            head.channels = _HEAD_CHANNELS[arch.embed_dim]
    if arch.hub_id:
        backbone.init_cfg = dict(type='Pretrained', checkpoint=arch.hub_id)
        if 'published' in cfg:
            cfg.merge_from_dict(cfg.published)
        if 'crop_size' in cfg:  # theirs holds its positions at the crop's grid
            cfg.model.backbone.img_size = cfg.crop_size[0]


def _taps(arch: Arch, current: int | list[int]) -> list[int]:
    if isinstance(current, int) or len(current) == 1:
        return [min(_LINEAR_TAP, arch.depth - 1)]
    return list(even_taps(arch.depth, len(current)))


def _heads(cfg: Config) -> list:
    """Configs of all heads."""
    found = []
    for key in ('decode_head', 'auxiliary_head'):
        head = cfg.model.get(key)
        found += list(head) if isinstance(head, list | tuple) else [head] if head else []
    return found


def _apply_options(cfg: Config, options: dict[str, Any]) -> None:
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        raise ValueError(
            f'--cfg-options {" ".join(f"{k}={v}" for k, v in options.items())}: {error}'
        ) from error


def _complete(cfg: Config) -> None:
    """Fill in what follows from other parts: crop, classes, the windows of the test."""
    model = cfg.model
    if 'crop_size' in cfg and 'data_preprocessor' in model:
        preprocessor = model.data_preprocessor
        if preprocessor.get('size', 0) is None:
            preprocessor.size = tuple(cfg.crop_size)
    for head in _heads(cfg):
        if 'num_classes' in head and head.num_classes is None:
            head.num_classes = cfg.num_classes
    if 'slide_stride' in cfg:
        model.test_cfg = dict(
            mode='slide', crop_size=tuple(cfg.crop_size), stride=tuple(cfg.slide_stride)
        )


def config_stem(cfg: Config) -> str:
    """Name of the config, for folders."""
    return Path(cfg.filename).stem
