"""Every probe's head as a checkpoint and a config that ``tools/test.py`` and ``infer.py`` take.

::

    heads/layer5-bn-lr0.001-wd0-seed0.py     a config of linear_internvit's form
    heads/layer5-bn-lr0.001-wd0-seed0/       the head; the encoder is read from where it came from
"""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.left_out import fingerprint
from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.engine.checkpoint_folder import write_folder
from mmdet_seg.probes.frozen_encoder import RANDOM, FrozenEncoder
from mmdet_seg.probes.probe_bank import Probe, ProbeBank
from mmdet_seg.probes.segment_data import SegmentData

FOLDER = 'heads'
_NAMES = {
    'weight': 'conv_seg.weight',
    'bias': 'conv_seg.bias',
    'norm_weight': 'norm.weight',
    'norm_bias': 'norm.bias',
    'running_mean': 'norm.running_mean',
    'running_var': 'norm.running_var',
}


def why_not(encoder: FrozenEncoder, final_norm: bool, padding: str) -> str | None:
    """Why heads on this encoder cannot be loaded elsewhere; None where they can."""
    inner = getattr(encoder, 'encoder', None)
    if not isinstance(inner, InternViT):
        return f'{encoder.name} is not an InternViT'
    if encoder.quantization:
        return 'the encoder is quantised'
    if encoder.name.startswith(RANDOM) or inner.load_report is None:
        return f'{encoder.name} is untrained and nowhere to be read from'
    if final_norm:
        return 'there is a final norm in front of them'
    if padding == 'centre':
        return 'windows are padded on all sides'
    return None


def write_heads(
    folder: Path, encoder: FrozenEncoder, bank: ProbeBank, data: SegmentData, cfg: Config
) -> tuple[dict[str, str], str | None]:
    """Write the heads that a segmentor can hold.

    Args:
        folder: Of the run.
        encoder: That they were trained on.
        bank: The probes.
        data: Classes, protocol.
        cfg: Of the data.

    Returns:
        Name of a probe -> its config, and why there are none or not all.
    """
    protocol = data.protocol
    if reason := why_not(encoder, protocol.final_norm, protocol.padding):
        return {}, f'No heads for tools/test.py and infer.py: {reason}.'
    identity = encoder_identity(encoder)
    written, missing = {}, []
    for probe in bank.probes:
        if probe.spec.norm == 'ln':
            missing.append(probe.spec.name)
            continue
        target = folder / FOLDER / probe.spec.name
        config = target.with_name(f'{target.name}.py')
        meta = dict(classes=data.classes, palette=data.palette)
        facts = {'encoder': identity, 'dataset_meta': meta, 'config': config.name}
        write_folder(target, {'model': list(_entries(probe))}, None, facts)
        _config(probe, encoder, data, cfg).dump(str(config))
        written[probe.spec.name] = str(config)
    reason = (
        "mmdet_seg.LinearHead has no layer norm, so that 'ln' probes have no head of their own."
    )
    return written, reason if missing else None


def encoder_identity(encoder: FrozenEncoder) -> dict[str, Any]:
    """Which frozen encoder a head belongs to, as the checkpoints of runs say it."""
    inner = encoder.encoder
    tensors = {f'backbone.{k}': v for k, v in inner.named_parameters()}
    return {
        'source': _source(encoder),
        'layout': inner.load_report.layout,
        'tensors': len(tensors),
        'sha256': fingerprint(sorted(tensors.items())),
    }


def _source(encoder: FrozenEncoder) -> str:
    """Where the weights came from; paths are absolute, so that the config works anywhere."""
    return str(Path(encoder.name).resolve()) if Path(encoder.name).exists() else encoder.name


def _entries(probe: Probe) -> list[TensorEntry]:
    state: dict[str, Tensor] = {
        f'decode_head.{_NAMES[k]}': v.detach().cpu() for k, v in probe.state_dict().items()
    }
    key = 'decode_head.conv_seg.weight'
    state[key] = state[key][:, :, None, None]
    if probe.spec.norm == 'bn':
        state['decode_head.norm.num_batches_tracked'] = torch.tensor(0)
    return [TensorEntry(k, tuple(v.shape), v.dtype, lambda v=v: v) for k, v in state.items()]


def _config(probe: Probe, encoder: FrozenEncoder, data: SegmentData, cfg: Config) -> Config:
    spec, protocol, inner = probe.spec, data.protocol, encoder.encoder
    taps = sorted(spec.layers)
    index = [taps.index(layer) for layer in spec.layers]
    many = len(index) > 1
    found = Config(cfg.to_dict())
    found.model = dict(
        type='mmdet_seg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmdet_seg.SegDataPreProcessor',
            mean=list(encoder.mean),
            std=list(encoder.std),
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=(protocol.crop, protocol.crop),
            test_cfg=dict(size_divisor=encoder.patch_size),
        ),
        backbone=dict(
            type='mmdet_seg.InternViT',
            arch=inner.arch.to_dict(),
            out_indices=taps,
            frozen=True,
            dtype=str(encoder.dtype).removeprefix('torch.'),
            init_cfg=dict(type='Pretrained', checkpoint=_source(encoder)),
        ),
        decode_head=dict(
            type='mmdet_seg.LinearHead',
            in_index=index if many else 0,
            **(dict(input_transform='resize_concat') if many else {}),
            num_classes=len(data.classes),
            norm_cfg=dict(type='SyncBN', requires_grad=True) if spec.norm == 'bn' else None,
            align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole')
        if protocol.test == 'whole'
        else dict(mode='slide', crop_size=(protocol.crop,) * 2, stride=(protocol.stride,) * 2),
    )
    found.train_dataloader.batch_size = protocol.batch
    found.test_dataloader = found.val_dataloader
    found.test_evaluator = found.val_evaluator
    return found
