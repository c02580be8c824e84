"""From what a person types to a complete config."""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_seg.backbones.variants import even_taps, get_arch
from mmdet_seg.config_path import CONFIG_ROOT, resolve_config
from mmdet_seg.datasets.folder_index import read_index
from mmdet_seg.engine.config_numbers import check_crop
from mmdet_seg.engine.config_options import apply_options
from mmdet_seg.engine.encoder_config import encoder_config
from mmdet_seg.engine.tuning import apply_tune

DATA_ROOT = CONFIG_ROOT / '_base_' / 'data'
# Channels of heads with convolutions: 1536 was published for 6B, 512 is mmseg's usual width.
_HEAD_CHANNELS = {3200: 1536, 1024: 512}
# The authors' configs for V1-0 build 45 of its 48 blocks.
_AUTHORS_DEPTH = {'6b-448px-v1-0': 45}
PROTOCOLS = ('ours', 'authors')


def load_recipe(
    config: str,
    *,
    arch: str | None = None,
    data: str | None = None,
    options: dict[str, Any] | None = None,
    protocol: str = 'ours',
    weights: str | None = None,
    tune: str | None = None,
) -> Config:
    """Load a config and apply ``--data``, ``--arch``, ``--protocol``, ``--tune`` and the options.

    Args:
        config: Path or name, see :func:`mmdet_seg.config_path.resolve_config`.
        arch: Name of an encoder in :data:`mmdet_seg.backbones.ARCHS`.
        data: Name of a file in ``configs/_base_/data``, or a folder that ``tools/prepare.py check``
            has prepared.
        options: Dotted keys to values.
        protocol: ``authors`` repeats what the authors' code does where ours knowingly differs.
        weights: Checkpoint of the encoder, in any layout, instead of the published one.
        tune: What of the encoder trains, see :func:`mmdet_seg.engine.tuning.apply_tune`.

    Raises:
        FileNotFoundError: No such config.
        ValueError: No such encoder or data, or an option that the config does not take.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f'--protocol {protocol}: there are {", ".join(PROTOCOLS)}.')
    path = resolve_config(config)
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is a program
        raise ValueError(f'{path} is not a config that can be read: {error}') from error
    if 'model' not in cfg:
        raise ValueError(f'{path} has no `model`: it is a base for other configs, not a run.')
    if cfg.get('default_scope') == 'mmdet' and find_spec('mmdet') is None:
        raise ValueError(
            f'{config_stem(cfg)} needs mmdet, which is not installed: pip install mmdet_seg[det]'
        )
    if data is not None:
        _apply_data(cfg, data, arch)
    if arch is not None:
        _apply_arch(cfg, arch, protocol)
    if protocol == 'authors':
        _apply_authors(cfg)
    if weights is not None:
        if not weights:
            raise ValueError('--weights names nothing; leave it out for the published ones.')
        encoder_config(cfg.model)['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    cfg.published_miou = _published_miou(cfg, arch, data)
    if 'published_schedule' in cfg and 'warmup_iters' in cfg:  # the data come with a published one
        cfg.merge_from_dict(cfg.published_schedule)
    if tune is not None:
        apply_tune(cfg, tune)
        cfg.published_miou = None  # was published for the recipe as it is
    _set_lengths(cfg)
    if options:
        apply_options(cfg, options)
    _complete(cfg)
    return cfg


def data_names() -> list[str]:
    """What ``--data`` takes."""
    return sorted(p.stem for p in DATA_ROOT.glob('*.py') if not p.stem.startswith('_'))


def _apply_data(cfg: Config, name: str, arch: str | None) -> None:
    names = data_names()
    # A recipe may bring its own form of some data, as detection does of the scenes.
    own = (cfg.get('data_variants') or {}).get(name)
    if own or name in names:
        overlay = Config.fromfile(str(DATA_ROOT / f'{own or name}.py'))
    elif Path(name).is_dir() and cfg.get('default_scope') == 'mmdet':
        from mmdet_seg.engine.coco_folder_data import adopt_folder, base_of  # needs mmdet, an extra

        overlay = Config.fromfile(str(DATA_ROOT / f'{base_of(cfg, arch)}.py'))
        overlay = adopt_folder(cfg, overlay, name)
    elif Path(name).is_dir():
        overlay = _folder_data(name, arch)
    else:
        close = get_close_matches(name, names, n=1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise ValueError(
            f'--data {name}: there are {", ".join(names)}, or a folder of your own that '
            f'tools/prepare.py check has prepared.{hint}'
        )
    scope = cfg.get('default_scope')
    if overlay.get('default_scope') != scope:
        fits = [n for n in names if _scope_of(n) == scope] + list(cfg.get('data_variants') or {})
        raise ValueError(
            f'--data {name} has no truth for what {config_stem(cfg)} predicts; it takes '
            f'{", ".join(sorted(set(fits)))}.'
        )
    for key in ('slide_stride', 'crop_size', 'num_classes', 'object_scale', 'semantic_classes'):
        cfg.pop(key, None)
    runtime = Config.fromfile(str(DATA_ROOT.parent / 'runtime.py'))
    # Types stay names: a run's copy of the config could not hold classes, nor imported ones.
    for key, value in overlay._to_lazy_dict().items():
        if key == 'default_hooks':
            cfg.merge_from_dict({key: value})
        elif key not in runtime:  # replaced, not merged: leftovers would be silent damage
            cfg[key] = value


def _scope_of(name: str) -> str:
    return Config.fromfile(str(DATA_ROOT / f'{name}.py')).default_scope


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


def _apply_arch(cfg: Config, name: str, protocol: str) -> None:
    arch = get_arch(name)
    backbone = encoder_config(cfg.model)
    if 'arch' not in backbone:
        raise ValueError(
            f'--arch {name}: the config has no InternViT in model.backbone to replace; '
            'leave --arch out or set model.backbone.type=mmdet_seg.InternViT.'
        )
    backbone.arch = name
    depth = _AUTHORS_DEPTH.get(name, arch.depth) if protocol == 'authors' else arch.depth
    if depth != arch.depth:
        backbone.arch = {**arch.to_dict(), 'depth': depth}
    if fields := cfg.get('arch_fields'):
        backbone.arch = {**get_arch(backbone.arch).to_dict(), **fields, 'hub_id': arch.hub_id}
    backbone.out_indices = _taps(depth, backbone.get('out_indices', -1), cfg.get('probe_tap'))
    backbone.pop('drop_path_rate', None)
    backbone.pop('init_cfg', None)
    if backbone.get('patch_size') and 'crop_size' not in cfg:
        backbone.img_size = arch.grid_size * backbone.patch_size  # the table keeps its positions
    for head in _heads(cfg):
        if 'channels' in head and arch.embed_dim in _HEAD_CHANNELS:
            head.channels = _HEAD_CHANNELS[arch.embed_dim]
    if arch.hub_id:
        backbone.init_cfg = dict(type='Pretrained', checkpoint=arch.hub_id)
        for overlay in ('published', f'published_{name.split("-")[0]}'):
            if overlay in cfg:
                cfg.merge_from_dict(cfg[overlay])
        if 'published_crop' in cfg and 'slide_stride' in cfg:
            _set_crop(cfg, **cfg.published_crop)
        if 'crop_size' in cfg:  # theirs holds its positions at the crop's grid
            encoder_config(cfg.model)['img_size'] = cfg.crop_size[0]
    backbone = encoder_config(cfg.model)
    if backbone.get('window_size') and 'num_global_blocks' in cfg:
        number = min(cfg.num_global_blocks, depth // 2)
        backbone.global_blocks = list(even_taps(depth, number)) if number else []


def _set_crop(cfg: Config, side: int, stride: int, divisor: int) -> None:
    """Another crop than the data's own, images scaled accordingly.

    Args:
        cfg: The config.
        side: Of the crop and of a test window, in pixels.
        stride: Between windows.
        divisor: Test images are resized to multiples of it.
    """
    before = cfg.crop_size[0]
    cfg.crop_size, cfg.slide_stride = (side, side), (stride, stride)
    scaled = {n * before: n * side for n in (1, 4)}  # of the short and of the long side
    for split in ('train', 'val', 'test'):
        for step in cfg[f'{split}_dataloader'].dataset.pipeline:
            if 'crop_size' in step:
                step.crop_size = (side, side)
            if 'size_divisor' in step:
                step.size_divisor = divisor
            if isinstance(step.get('scale'), int):
                step.scale = scaled.get(step.scale, step.scale)
            elif 'scale' in step:
                step.scale = tuple(scaled.get(n, n) for n in step.scale)


def _taps(depth: int, current: int | list[int], probe_tap: int | None) -> list[int]:
    if isinstance(current, int) or len(current) == 1:
        return [depth - 1 if probe_tap is None else min(probe_tap, depth - 1)]
    return list(even_taps(depth, len(current)))


def _apply_authors(cfg: Config) -> None:
    """What the authors' code does differently and changes the result."""
    cfg.optim_wrapper.paramwise_cfg.decay_positions = True
    if encoder_config(cfg.model).get('window_size'):
        encoder_config(cfg.model)['window_padding'] = 'zeros'
    if 'subset' in cfg:  # their few-shot files keep the long side's cap: wide images have less
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            steps = loader.dataset.pipeline
            for i, step in enumerate(steps):
                if getattr(step.type, '__name__', step.type) == 'ResizeShortestEdge':
                    steps[i] = dict(type='Resize', scale=(2016, 504), keep_ratio=True)


def _published_miou(cfg: Config, arch: str | None, data: str | None) -> float | None:
    """The figure that was published for this encoder on this data with this config."""
    table = cfg.get('published_miou')
    return table.get(data or '', {}).get(arch or '') if isinstance(table, dict) else table


def _set_lengths(cfg: Config) -> None:
    """Give the published schedule the length that the config asks for."""
    length = cfg.get('published_length')
    if length and 'warmup_iters' in cfg:
        cfg.max_iters, cfg.warmup_iters = length.max_iters, length.warmup_iters
        warmup, decay = cfg.param_scheduler
        warmup.end, decay.end = length.warmup_iters + 1, length.max_iters + 1
        cfg.train_cfg.max_iters = length.max_iters


def _heads(cfg: Config) -> list:
    """Configs of all heads, of segmentors and detectors."""
    found = []
    for parent, key in (
        (cfg.model, 'decode_head'),
        (cfg.model, 'auxiliary_head'),
        (cfg.model, 'bbox_head'),
        (cfg.model, 'panoptic_head'),
        (cfg.model, 'panoptic_fusion_head'),
        (cfg.model.get('roi_head') or {}, 'bbox_head'),
        (cfg.model.get('roi_head') or {}, 'mask_head'),
    ):
        head = parent.get(key)
        found += list(head) if isinstance(head, list | tuple) else [head] if head else []
    return found


def _complete(cfg: Config) -> None:
    """Fill in what follows from other parts: crop, classes, the windows of the test."""
    model = cfg.model
    if 'crop_size' in cfg:
        check_crop(cfg.crop_size)
    if 'crop_size' in cfg and 'data_preprocessor' in model:
        preprocessor = model.data_preprocessor
        if preprocessor.get('size', 0) is None:
            preprocessor.size = tuple(cfg.crop_size)
    for head in _heads(cfg):
        for key in ('num_classes', 'num_things_classes', 'num_stuff_classes'):
            if key in head and head[key] is None:
                head[key] = cfg[key]
        loss = head.get('loss_cls') or {}
        if 'class_weight' in loss and loss.class_weight is None:  # and of no object
            loss.class_weight = [1.0] * cfg.num_classes + [0.1]
    if model.get('semantic_head'):
        if 'semantic_classes' in cfg:
            model.semantic_head.num_classes = cfg.semantic_classes
        else:
            model.semantic_head = None
    generator = (model.get('rpn_head') or {}).get('anchor_generator') or {}
    if 'scales' in generator and generator.scales is None:
        generator.scales = [cfg.object_scale]
    if 'slide_stride' in cfg:
        model.test_cfg = dict(
            mode='slide', crop_size=tuple(cfg.crop_size), stride=tuple(cfg.slide_stride)
        )


def config_stem(cfg: Config) -> str:
    """Name of the config, for folders."""
    return Path(cfg.filename).stem
