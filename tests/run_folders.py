"""Checkpoint folders as a run writes them, made without a run."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint_writer import save_encoder
from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.engine.checkpoint_folder import write_folder
from mmdet_seg.engine.frozen_parameters import hide_frozen, show_frozen
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.run_state import encoder_identity

META = {'classes': ['sky', 'grass'], 'palette': [[0, 0, 0], [9, 9, 9]]}
SMALL = {
    'model.decode_head.channels': 16,
    'model.auxiliary_head.channels': 16,
    'model.data_preprocessor.size': (56, 56),
}


def save_tiny(path: Path) -> Path:
    """A made-up published encoder, in bf16 as those are."""
    torch.manual_seed(3)
    encoder = InternViT('tiny').bfloat16()
    save_encoder(encoder.state_dict(), encoder.arch, path, 'own')
    return path


def recipe(tune: str, source: Path | None, **options: Any) -> Config:
    """UperNet on the tiny encoder."""
    weights = str(source) if source else None
    return load_recipe(
        'upernet_internvit', arch='tiny', tune=tune, weights=weights, options=SMALL | options
    )


def build(cfg: Config) -> nn.Module:
    """The model with its encoder's weights, and whatever trains moved from its start."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def write_run(model: nn.Module, cfg: Config, folder: Path, *, ema: bool = False) -> Path:
    """What a run of this model would have saved, with its config beside it."""
    hide_frozen(model)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    trained = {k: v.detach() for k, v in model.named_parameters()}
    identity = encoder_identity(model)
    show_frozen(model)
    tensors = {
        'model': entries(state),
        'optimizer': entries({f'{k}|m': v for k, v in trained.items()}),
    }
    if ema:
        tensors['ema'] = entries({k: v + 1 for k, v in trained.items()})
    cfg.dump(folder.parent / 'config.py')
    facts = {'iteration': 5, 'encoder': identity, 'dataset_meta': META, 'config': 'config.py'}
    write_folder(folder, tensors, {'iteration': 5}, facts)
    return folder


def entries(tensors: dict[str, torch.Tensor]) -> list[TensorEntry]:
    return [TensorEntry(k, tuple(v.shape), v.dtype, lambda v=v: v) for k, v in tensors.items()]
