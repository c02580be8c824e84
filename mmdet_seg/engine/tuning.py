"""How much of the encoder trains: what ``--tune`` does to a config."""

from mmengine.config import Config

from mmdet_seg.backbones.variants import get_arch
from mmdet_seg.engine.encoder_config import encoder_config

_RANK = 16
_WAYS = 'head, partial[:BLOCKS], full and lora[:RANK]'


def apply_tune(cfg: Config, tune: str) -> None:
    """Change a config so that this part of its encoder trains, and all of the heads.

    - ``head``: nothing of the encoder.
    - ``partial[:K]``: the last K blocks that an output depends on; left out, the upper third.
    - ``full``: everything.
    - ``lora[:RANK]``: adapters of this rank (default 16) with alpha ``2 * RANK``.

    With ``head`` and ``lora``, no pretrained weight moves: drop path and layer decay, which are
    there for those that do, are turned off.

    Raises:
        ValueError: Another word or number, or a config without an InternViT.
    """
    way, colon, text = tune.partition(':')
    number = int(text) if text.isdecimal() else 0
    if way not in ('head', 'partial', 'full', 'lora') or (
        colon and (way in ('head', 'full') or number < 1)
    ):
        raise ValueError(f'--tune {tune}: there are {_WAYS}, with numbers from 1.')
    backbone = encoder_config(cfg.model)
    if 'arch' not in backbone:
        raise ValueError(
            f'--tune {tune}: the config has no InternViT in model.backbone to tune; leave --tune '
            'out or set model.backbone.type=mmdet_seg.InternViT and its arch.'
        )
    arch = get_arch(backbone.arch)
    backbone.frozen = way == 'head'
    backbone.frozen_stages, backbone.lora = -1, None
    if way == 'partial':
        backbone.frozen_stages = _first_trained(backbone.get('out_indices', -1), arch.depth, number)
    elif way == 'lora':
        rank = number or _RANK
        backbone.lora = dict(rank=rank, alpha=2 * rank, dropout=0.0)
    if way in ('head', 'lora'):
        backbone.drop_path_rate = 0.0
        paramwise = cfg.get('optim_wrapper', {}).get('paramwise_cfg') or {}
        if 'layer_decay_rate' in paramwise:
            paramwise.layer_decay_rate = 1.0
    injected = 'encoder' in cfg.model.backbone and cfg.model.backbone.get('injection', True)
    if way == 'head' and not injected:
        backbone.grad_checkpointing = False
    elif arch.hub_id:  # a recipe of a frozen encoder has it off
        backbone.grad_checkpointing = True


def _first_trained(out_indices: int | list[int], depth: int, blocks: int) -> int:
    """The first of the last ``blocks`` (0: a third) before the last output."""
    last = out_indices if isinstance(out_indices, int) else out_indices[-1]
    used = last % depth + 1
    if blocks >= used:
        raise ValueError(
            f'--tune partial:{blocks}: outputs depend on {used} blocks; give 1 to {used - 1}, or '
            '--tune full for all of the encoder.'
        )
    return used - (blocks or max(round(used / 3), 1))
