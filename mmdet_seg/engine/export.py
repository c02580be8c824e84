"""A segmentor as one file that needs neither this package nor mmseg."""

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmdet_seg import command_line
from mmdet_seg.backbones import InternViT, merge_lora
from mmdet_seg.engine.checkpoint import check_exists, load_weights
from mmdet_seg.engine.export_check import TOLERANCE, check_inputs, compare, reference
from mmdet_seg.engine.exported_segmentor import first_line, least_patches, patch_step, trace
from mmdet_seg.engine.inference import dataset_meta
from mmdet_seg.engine.recipe import load_recipe

FORMATS = {'onnx': '.onnx', 'torch_export': '.pt2'}


def export(
    config: str,
    checkpoint: str,
    form: str,
    *,
    out: str | None = None,
    size: Sequence[int] | None = None,
    arch: str | None = None,
    data: str | None = None,
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> int:
    """Export, compare with the model at sizes that were not traced, and keep the file if it agrees.

    Args:
        config: Path or name of a config.
        checkpoint: File of weights.
        form: One of :data:`FORMATS`.
        out: File to write; None puts it beside the checkpoint.
        size: (H, W) around which sizes are checked; None takes the config's crop.
        arch: Encoder to put into the config.
        data: Data to put into the config.
        options: Dotted config keys to values.
        force: Replace what is at ``out``.

    Returns:
        Exit status: 0, or 1 where the file's logits are not the model's.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The model cannot be exported, or ``out`` is there already.
    """
    MMLogger.get_instance('export', log_level='ERROR')
    if form == 'onnx':
        from mmdet_seg.engine import onnx_export as writer  # says which extra is missing
    else:
        from mmdet_seg.engine import pt2_export as writer
    check_exists(checkpoint)
    target = Path(out) if out else _beside(Path(checkpoint), FORMATS[form])
    _check_target(target, FORMATS[form], force)
    cfg = load_recipe(config, arch=arch, data=data, options=options)
    model, meta = build(cfg, checkpoint)
    step, least = patch_step(model), least_patches(model)
    size = size or cfg.get('crop_size') or (16 * step, 16 * step)
    inputs = check_inputs(model, size, step, least)
    command_line.note('Computing the logits to compare with.')
    _to_float(model, inputs[0])
    _merge_adapters(model)
    expected = [reference(model, images) for images in inputs]
    command_line.note(f'Exporting to {form}.')
    program = trace(model, step, least, f'{cfg.filename} as {form}')
    facts = metadata(cfg, model, meta, step, least)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='.export_') as folder:
        aside = Path(folder) / target.name
        writer.write(program, aside, facts)
        del program, model
        if why := _differs(writer, aside, inputs, expected):
            line = f'export.py: the exported file {why}, so {target} was not written.'
            print(line, file=sys.stderr)
            return command_line.FAILED
        files = sorted(Path(folder).iterdir())  # weights beyond 2 GB lie in a file of their own
        total = sum(f.stat().st_size for f in files)
        for file in files:
            os.replace(file, target.parent / file.name)
    print(
        f'{target}: {total / 2**20:.1f} MiB, {len(meta["classes"])} classes. {usage(step, least)}'
    )
    return command_line.OK


def build(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict]:
    """The segmentor with its weights, on the CPU in eval mode, and its classes and palette."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    if not (hasattr(model, 'encode_decode') and hasattr(model.decode_head, 'align_corners')):
        raise ValueError(
            f'{cfg.filename}: a {type(model).__name__} cannot be exported; what can is a segmentor '
            'with one encoder and one decode head (EncoderDecoder).'
        )
    if model.out_channels == 1:
        raise ValueError(
            f'{cfg.filename}: a head with out_channels=1 and a threshold cannot be exported; use '
            'out_channels=2.'
        )
    meta = load_weights(model, checkpoint).get('dataset_meta') or dataset_meta(cfg)
    return revert_sync_batchnorm(model).eval().requires_grad_(False), meta


def metadata(cfg: Config, model: nn.Module, meta: dict, step: int, least: int) -> dict[str, Any]:
    """What a user of the file has to know."""
    test_cfg = dict(model.test_cfg or {})
    windows = {k: list(test_cfg[k]) for k in ('crop_size', 'stride') if k in test_cfg}
    return {
        'config': Path(cfg.filename).name,
        'classes': list(meta['classes']),
        'palette': [list(map(int, colour)) for colour in meta.get('palette') or []],
        'input': 'images (B, 3, H, W) float32, RGB, 0 .. 255, not normalised',
        'output': 'logits (B, C, H, W) float32',
        'size_multiple': step,
        'size_minimum': least * step,
        'windows': windows if test_cfg.get('mode') == 'slide' else None,
    }


def usage(step: int, least: int) -> str:
    """How the file is called, in a sentence."""
    return (
        f'It takes images (B, 3, H, W) as float32 RGB 0 .. 255, H and W multiples of {step} from '
        f'{least * step}, and gives logits (B, C, H, W).'
    )


def _differs(
    writer: ModuleType, path: Path, inputs: list[Tensor], expected: list[Tensor]
) -> str | None:
    """What is wrong with a file, after a line for every input."""
    run, checks = writer.open_file(path), []
    for images, logits in zip(inputs, expected, strict=True):
        try:
            checks.append(compare(run(images), logits))
        except Exception as error:  # a runtime's own classes
            return f'does not run at {" x ".join(map(str, images.shape))}: {first_line(error)}'
        print(checks[-1])
    worst = max(checks, key=lambda c: math.inf if math.isnan(c.relative) else c.relative)
    if worst.passed:
        return None
    where = f'{worst.relative:.1e} relative at {worst.size}'
    return f'differs by {where}; more than {TOLERANCE:g} is an error'


def _beside(checkpoint: Path, suffix: str) -> Path:
    """Next to a checkpoint, also to one that is a folder."""
    stem = checkpoint.name if checkpoint.is_dir() else checkpoint.stem
    return checkpoint.with_name(stem + suffix)


def _check_target(target: Path, suffix: str, force: bool) -> None:
    if target.suffix != suffix:
        raise ValueError(f'--out {target}: the file has to end in {suffix}.')
    if target.exists() and not force:
        raise ValueError(f'{target} is there already: --force replaces it, --out names another.')


def _merge_adapters(model: nn.Module) -> None:
    """LoRA adapters become part of the weights, after these have become fp32."""
    for module in model.modules():
        if isinstance(module, InternViT):
            merge_lora(module)


def _to_float(model: nn.Module, images: Tensor) -> None:
    """What is held or computed in half precision becomes fp32, and what that changes is said."""
    half = {p.dtype for p in model.parameters()} | {getattr(model, 'encoder_dtype', None)}
    half -= {torch.float32, None}
    if not half:
        return
    before = reference(model, images).float()
    model.float()
    if hasattr(model, 'encoder_dtype'):
        model.encoder_dtype = None
    after = reference(model, images)
    names = ' and '.join(sorted(str(d).removeprefix('torch.') for d in half))
    print(
        f'What runs in {names} is exported in fp32, which changes the logits by '
        f'{compare(before, after).relative:.1e} relative.'
    )
