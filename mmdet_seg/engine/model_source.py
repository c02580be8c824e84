"""The weights of a whole segmentor or detector, wherever they are, tensor by tensor."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdet_seg.backbones.checkpoint import complete as complete_encoder
from mmdet_seg.backbones.checkpoint_files import WeightFiles
from mmdet_seg.backbones.checkpoint_source import locate_source
from mmdet_seg.backbones.layouts import KeyMap, locate_encoder, unwrapped
from mmdet_seg.backbones.lora import adapted_weight
from mmdet_seg.backbones.run_folder import BACKBONE, RunFiles, is_run_folder
from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.compat.safetensors_load import DATASET_META
from mmdet_seg.compat.torch_load import load_file
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.deepspeed_folder import check_single, find_deepspeed, open_deepspeed
from mmdet_seg.segmentors.authors_names import rename_in_place

_DDP = 'module.'  # what DistributedDataParallel puts before every name


@dataclass(frozen=True)
class ModelWeights:
    """A whole model's weights.

    Attributes:
        kind: Where they lie, in words.
        tensors: Name -> how to read it, in the order of the model.
        dataset_meta: Classes and palette that it was trained on; empty where that is unknown.
        added: Tensors of a frozen encoder that came from elsewhere, and where that is.
        release: Gives mapped memory back.
    """

    kind: str
    tensors: dict[str, TensorEntry]
    dataset_meta: dict[str, Any]
    added: tuple[int, str] = (0, '')
    release: Callable[[], None] = lambda: None


def open_model(source: str | os.PathLike, *, complete: bool = True) -> ModelWeights:
    """Find a whole model's weights; reads none of them yet.

    Args:
        source: A checkpoint folder of a run, a folder of DeepSpeed's, a file (``.pth``,
            ``.safetensors``; the authors' too), or a folder of safetensors files with an index.
        complete: Read the part of a frozen encoder that a run left out from where it came from.

    Raises:
        FileNotFoundError: Nothing there, or the frozen encoder is gone.
        ValueError: Broken, changed, no whole model, or not the encoder it was trained on.
    """
    path = locate_source(source)
    if is_run_folder(path):
        found = _of_run(path, complete)
    elif folder := find_deepspeed(path):
        merged = open_deepspeed(folder)
        many = f', {merged.processes} processes' if merged.processes > 1 else ''
        kind = f'DeepSpeed, ZeRO {merged.stage}{many}' if merged.stage else 'DeepSpeed'
        found = ModelWeights(kind, {e.key: e for e in merged.entries}, _plain(merged.meta))
    else:
        check_single(path)
        files = WeightFiles(path)
        found = ModelWeights(
            'file' if path.is_file() else 'folder of files',
            _entries(files),
            _dataset_meta(path, files),
            release=files.release,
        )
        _check_whole(source, found.tensors)
    tensors = found.tensors
    if all(name.startswith(_DDP) for name in tensors):
        tensors = {k.removeprefix(_DDP): e for k, e in tensors.items()}
    rename_in_place(tensors)
    return replace(found, tensors={k: replace(e, key=k) for k, e in tensors.items()})


def merge_adapters(found: ModelWeights, source: str | os.PathLike) -> ModelWeights:
    """The same with LoRA adapters in the weights of the encoder, summed in float32.

    Raises:
        ValueError: There are none, or what they belong to is not there.
    """
    keys = locate_encoder(found.tensors)
    if keys is None or not keys.adapters or keys.scale is None or keys.unexpected:
        raise ValueError(
            f'{source} has no complete LoRA adapters to merge; leave --merge-lora out.'
        )
    tensors, scale = {}, float(found.tensors[keys.scale].read())
    for key, entry in found.tensors.items():
        inner = unwrapped(key.removeprefix(keys.prefix)) if key.startswith(keys.prefix) else key
        if inner is None:
            continue
        name = keys.prefix + inner if key.startswith(keys.prefix) else key
        if key in keys.adapters:
            dtype = torch.promote_types(entry.dtype, torch.float32)
            read = partial(_merged, found.tensors, keys, key, scale)
            tensors[name] = TensorEntry(name, entry.shape, dtype, read)
        else:
            tensors[name] = replace(entry, key=name)
    return replace(found, tensors=tensors)


def _merged(tensors: dict[str, TensorEntry], keys: KeyMap, key: str, scale: float) -> Tensor:
    down, up = (tensors[k].read() for k in keys.adapters[key])
    return adapted_weight(tensors[key].read(), down, up, scale)


def _of_run(path: Path, complete: bool) -> ModelWeights:
    open_folder(path)  # compares every file with the manifest
    files = RunFiles(path)
    added = complete_encoder(files) if complete else 0
    return ModelWeights(
        'checkpoint of a run' + (', moving average' if _has_ema(files) else ''),
        _entries(files),
        _plain(files.manifest),
        (added, files.encoder_source if added else ''),
        files.release,
    )


def _has_ema(files: RunFiles) -> bool:
    return any(file.name.startswith('ema') for file in files.owner.values())


def _entries(files: WeightFiles) -> dict[str, TensorEntry]:
    found = {}
    for key in files.owner:
        file = files.of(key)
        dtype = file.dtype(key)
        if isinstance(dtype, str):  # not floating point: a counter or an index
            dtype = file.read(key).dtype
        found[key] = TensorEntry(key, file.shape(key), dtype, partial(_read, files, key))
    return found


def _read(files: WeightFiles, key: str) -> Tensor:
    return files.of(key).read(key)


def _check_whole(source: str | os.PathLike, tensors: Mapping[str, TensorEntry]) -> None:
    if any(name.removeprefix(_DDP).startswith(BACKBONE) for name in tensors):
        return
    encoder = locate_encoder(tensors)
    if encoder is not None:
        raise ValueError(
            f'{source} holds an encoder and not a segmentor or detector (nothing in it is named '
            f'{BACKBONE}*); --to native, hub, pth, timm and own are for encoders.'
        )


def _dataset_meta(path: Path, files: WeightFiles) -> dict[str, Any]:
    if path.is_dir():
        return {}
    if path.suffix == '.safetensors':
        text = files.file(path).metadata.get(DATASET_META)
        try:
            return _plain({'dataset_meta': json.loads(text or 'null')})
        except ValueError:
            return {}
    content = load_file(path, mmap=True)
    return _plain(content['meta']) if isinstance(content.get('meta'), Mapping) else {}


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Classes and palette as lists, whatever they were stored as."""
    found = meta.get('dataset_meta')
    if not isinstance(found, Mapping):
        return {}
    found = {str(k).lower(): v for k, v in found.items()}
    return {k: np.asarray(found[k]).tolist() for k in ('classes', 'palette') if found.get(k)}
