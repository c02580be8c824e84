"""What a run needs, checked before anything large is built."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmdet_seg.backbones.checkpoint import open_checkpoint
from mmdet_seg.backbones.variants import get_arch
from mmdet_seg.engine.encoder_config import encoder_config

_WHERE = {
    'ADE20KDataset': (
        'unpack ADEChallengeData2016.zip (data.csail.mit.edu/places/ADEchallenge) so that '
        '{root}/images/training exists'
    ),
    'CocoInstances': (
        'get train2017.zip, val2017.zip and annotations_trainval2017.zip '
        '(cocodataset.org/#download) and run tools/prepare.py coco FOLDER --out {root}'
    ),
}


def check_data(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> None:
    """See that the folders of the datasets are there.

    Raises:
        FileNotFoundError: Names the folder, how to get the data, and what works without.
    """
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        root = Path(dataset.get('data_root') or '')
        needed = list((dataset.get('data_prefix') or {}).values())
        if str(dataset.get('ann_file') or '').endswith('.json'):
            needed.append(dataset.ann_file)
        for folder in needed:
            if isinstance(folder, str) and not (root / folder).exists():
                kind = dataset.type if isinstance(dataset.type, str) else dataset.type.__name__
                known = _WHERE.get(kind.rsplit('.', 1)[-1], 'put the data there')
                raise FileNotFoundError(
                    f'No data in {root / folder}: {known.format(root=root)}, or name another place '
                    f'with --cfg-options {split}_dataloader.dataset.data_root=DIR, or train on the '
                    'built-in scenes with --data scenes.'
                )


def check_start(cfg: Config) -> None:
    """See that what a training starts from is there.

    Raises:
        FileNotFoundError: ``load_from`` is not.
        ValueError: ``resume`` without a checkpoint.
    """
    source = cfg.get('load_from')
    if cfg.get('resume') and not source:
        raise ValueError('resume=True names no checkpoint; give --resume, which finds the newest.')
    if source and '://' not in source and not Path(source).exists():
        raise FileNotFoundError(f'load_from={source}: no such file or folder.')


def check_weights(cfg: Config) -> None:
    """Find the encoder's checkpoint, fetch it if it is a hub id, and compare its shape.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Broken, or not the encoder that the config builds.
    """
    backbone = encoder_config(cfg.model)
    source = (backbone.get('init_cfg') or {}).get('checkpoint')
    if not source or 'arch' not in backbone:
        return
    arch = get_arch(backbone.arch)
    found = open_checkpoint(source, {'num_heads': arch.num_heads}).arch
    same = ('embed_dim', 'mlp_ratio', 'qkv_bias', 'qk_norm', 'norm')
    wrong = [k for k in same if getattr(found, k) != getattr(arch, k)]
    if wrong or found.depth < arch.depth:
        key = wrong[0] if wrong else 'depth'
        raise ValueError(
            f'{source} holds an encoder with {key}={getattr(found, key)}, but the config builds '
            f'{key}={getattr(arch, key)}: choose the --arch that belongs to these weights.'
        )


def check_classes(model: nn.Module, meta: dict[str, Any] | None) -> None:
    """See that a segmentor's heads have room for every class of the data.

    Raises:
        ValueError: Fewer classes than the data.
    """
    classes = (meta or {}).get('classes') or ()
    for name in ('decode_head', 'auxiliary_head'):
        found = getattr(getattr(model, name, None), 'num_classes', None)
        if isinstance(found, int) and found < len(classes):
            raise ValueError(
                f'model.{name}.num_classes={found}, and the data have {len(classes)} classes: '
                'leave it to the config, or choose the --data that belong to it.'
            )
