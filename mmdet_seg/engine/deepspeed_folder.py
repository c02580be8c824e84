"""A checkpoint of DeepSpeed's own (ZeRO 1, 2 and 3, any number of processes) as whole weights.

::

    RUN/latest                               the newest tag
    RUN/global_step540/                      a tag
      mp_rank_00_model_states.pt             ZeRO 1 and 2: weights as the model held them, buffers
      zero_pp_rank_R_mp_rank_00_model_states.pt          ZeRO 3: placeholders, buffers, by process
      [bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt   float32 weights, flat, by process

DeepSpeed's ``zero_to_fp32`` unpickles these files without restraint, which runs whatever they say;
it also loses frozen weights of ZeRO 1. Here they are read by the rule of
:mod:`mmdet_seg.compat.torch_load`, with inert stand-ins for the four classes of DeepSpeed that they
name, and parameters are cut out of mapped files one at a time
(:mod:`mmdet_seg.engine.deepspeed_flat`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.compat.torch_load import load_file
from mmdet_seg.engine.deepspeed_flat import given, stage_3, stages_1_and_2

_MODEL, _OPTIM = '_model_states.pt', '_optim_states.pt'
_RANK = re.compile(r'(?:bf16_|fp16_)?(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)(_\w+_states\.pt)')


class _Record:
    """Stands for an object whose content is not needed."""

    def __new__(cls, *args: Any) -> '_Record':
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Stage(int):
    pass


_STAND_INS = [
    (_Stage, 'deepspeed.runtime.zero.config.ZeroStageEnum'),
    (_Record, 'deepspeed.utils.tensor_fragment.fragment_address'),
    *((_Record, f'deepspeed.runtime.fp16.loss_scaler.{x}LossScaler') for x in ('', 'Dynamic')),
]


@dataclass(frozen=True)
class DeepSpeedWeights:
    """The weights of such a checkpoint.

    Attributes:
        entries: Whole tensors, read when asked for.
        stage: Of ZeRO, 0 without.
        processes: That wrote it.
        meta: What the run stored beside them.
    """

    entries: list[TensorEntry]
    stage: int
    processes: int
    meta: dict[str, Any]


def find_deepspeed(path: Path) -> Path | None:
    """The folder of a tag, where ``path`` is one or holds one; None where it is none of this.

    Raises:
        ValueError: ``latest`` names a folder that is not there.
    """
    if not path.is_dir():
        return None
    if any(path.glob(f'*{_MODEL}')) or any(path.glob(f'*{_OPTIM}')):
        return path
    latest = path / 'latest'
    if not latest.is_file():
        return None
    tag = latest.read_text(errors='replace').strip()
    found = path / tag
    if Path(tag).name != tag or not found.is_dir():
        raise ValueError(f'{latest} names {tag!r}, which is not a folder beside it; name the tag.')
    return find_deepspeed(found)


def open_deepspeed(folder: Path) -> DeepSpeedWeights:
    """Read what a tag's folder holds; the weights are read when they are asked for.

    Raises:
        ValueError: Files are missing, damaged, of several checkpoints or of a kind that is not
            read here (tensor or pipeline parallel, experts), or ask for code to be run.
    """
    models, optims = _files(folder, _MODEL), _files(folder, _OPTIM)
    if not models:
        raise ValueError(f'{folder} lacks its *{_MODEL} files; copy all of one checkpoint.')
    states = [_load(file, 'module') for file in models]
    first = states[0]
    meta = first['meta'] if isinstance(first.get('meta'), Mapping) else {}
    module = {k: v for k, v in first['module'].items() if isinstance(v, Tensor)}
    groups = first.get('param_shapes')
    if not groups:
        return DeepSpeedWeights(list(given(module).values()), 0, 1, dict(meta))
    if not optims:
        hint = f', or give {models[0]} itself, which has them as the model held them'
        raise ValueError(
            f'{folder} lacks its *{_OPTIM} files, which hold the float32 weights; copy them there'
            f'{hint if len(models) == 1 else ""}.'
        )
    shards = [_load(file, 'optimizer_state_dict')['optimizer_state_dict'] for file in optims]
    stage, flats = _flat_weights(folder, shards, len(models))
    if stage == 3:
        buffers = {k: module[k] for k in first.get('buffer_names') or () if k in module}
        found = given(buffers) | stage_3(folder, states, flats)
    else:
        found = given(module | dict(first.get('frozen_param_fragments') or {}))
        paddings = shards[0].get('param_alignment_paddings')
        found |= stages_1_and_2(folder, groups, flats, paddings)
    for name, other in (first.get('shared_params') or {}).items():
        if other in found:
            found[name] = replace(found[other], key=name)
    order = {name: i for i, name in enumerate(first['module'])}
    entries = sorted(found.values(), key=lambda e: order.get(e.key, len(order)))
    return DeepSpeedWeights(entries, stage, len(shards), dict(meta))


def check_single(file: Path) -> None:
    """Refuse a file of such a checkpoint that is only a part of the weights.

    Raises:
        ValueError: It is one.
    """
    match = _RANK.fullmatch(file.name)
    if match and (match[1] is not None or match[3] == _OPTIM):
        raise ValueError(f'{file} is a part of a checkpoint of DeepSpeed; give its folder.')


def _files(folder: Path, kind: str) -> list[Path]:
    """Files of a kind by process."""
    found = {}
    for file in folder.glob(f'*{kind}'):
        match = _RANK.fullmatch(file.name)
        if match is None or int(match[2]):
            raise ValueError(
                f'{folder} holds {file.name}: a model in tensor or pipeline parallel parts, or '
                "with experts, is not put together here; use DeepSpeed's ds_to_universal.py."
            )
        found[int(match[1] or 0)] = file
    return [found[rank] for rank in sorted(found)]


def _load(file: Path, key: str) -> dict[str, Any]:
    content = load_file(file, mmap=True, stand_ins=_STAND_INS)
    if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
        raise ValueError(f"{file} has no {key!r}: it is not DeepSpeed's; give the right folder.")
    return dict(content)


def _flat_weights(
    folder: Path, shards: list[dict[str, Any]], num_models: int
) -> tuple[int, list[list[Tensor]]]:
    """Stage, and the flat float32 weights of each process, by group."""
    stages = {int(shard.get('zero_stage', -1)) for shard in shards}
    stage = stages.pop()
    key = 'fp32_flat_groups' if stage == 3 else 'single_partition_of_fp32_groups'
    if stages or stage not in (1, 2, 3) or any(key not in shard for shard in shards):
        raise ValueError(
            f'{folder} is not one checkpoint of ZeRO 1, 2 or 3 of DeepSpeed 0.19 or near it; '
            'save it again with one of these.'
        )
    counts = shards[0].get('partition_count', len(shards))
    num = max(counts) if isinstance(counts, list | tuple) else int(counts)
    if len(shards) != num or num_models != (num if stage == 3 else 1):
        raise ValueError(
            f'{folder} was written by {num} processes and has {len(shards)} *{_OPTIM} and '
            f'{num_models} *{_MODEL} files; copy all files of one checkpoint.'
        )
    return stage, [list(shard[key]) for shard in shards]
