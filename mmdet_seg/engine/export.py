"""A segmentor as one file that needs neither this package nor mmseg.

Shapes: B images, C classes, (H, W) pixels, P the step in which sizes may vary.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmdet_seg import command_line
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.inference import dataset_meta
from mmdet_seg.engine.recipe import load_recipe

FORMATS = {'onnx': '.onnx', 'torch_export': '.pt2'}
METADATA = 'mmdet_seg.json'  # the entry beside the program in a .pt2
TOLERANCE = 1e-3  # of the largest logit, fp32


class ExportedSegmentor(nn.Module):
    """What is exported: pixels in, logits at the same size out.

    Shapes::

        images  (B, 3, H, W) float32, RGB, 0 .. 255; H and W multiples of P
        logits  (B, C, H, W) float32

    Args:
        model: An mmseg ``EncoderDecoder`` in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        preprocessor = model.data_preprocessor
        self.backbone, self.decode_head = model.backbone, model.decode_head
        self.neck = model.neck if model.with_neck else None
        self.rgb = preprocessor.channel_conversion  # data sets give BGR
        mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = preprocessor.mean.float(), preprocessor.std.float()
        self.register_buffer('mean', mean.cpu().clone())
        self.register_buffer('std', std.cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        x = ((images if self.rgb else images.flip(1)) - self.mean) / self.std
        maps = self.backbone(x)
        logits = self.decode_head(maps if self.neck is None else self.neck(maps))
        return F.interpolate(
            logits,
            size=images.shape[2:],
            mode='bilinear',
            align_corners=self.decode_head.align_corners,
        )


class AdaptivePool(nn.Module):
    """``AdaptiveAvgPool2d`` as two matrix products, for inputs whose size is not known.

    Exporters write adaptive pooling out for one input size. Bin i of S over n cells is
    floor(i n / S) .. ceil((i + 1) n / S), as PyTorch documents it.

    Args:
        size: (rows, columns) of the output.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows = _bins(x.shape[2], self.size[0], x)  # (S, h)
        columns = _bins(x.shape[3], self.size[1], x)
        return rows @ x @ columns.T


def _bins(cells: int, bins: int, like: Tensor) -> Tensor:
    index = torch.arange(bins, device=like.device)[:, None]
    first = index * cells // bins
    last = ((index + 1) * cells + bins - 1) // bins
    place = torch.arange(cells, device=like.device)[None]
    inside = ((place >= first) & (place < last)).to(like.dtype)
    return inside / (last - first)


@dataclass(frozen=True)
class Check:
    """One input on which the file was compared with the model.

    Attributes:
        shape: Of the images, (B, 3, H, W).
        relative: Largest difference of a logit, over the largest logit.
        same_labels: Share of pixels with the same best class.
    """

    shape: tuple[int, ...]
    relative: float
    same_labels: float

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE  # not for NaN


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
        writer = sys.modules[__name__]
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'{checkpoint}: no such checkpoint.')
    target = Path(out) if out else Path(checkpoint).with_suffix(FORMATS[form])
    _check_target(target, FORMATS[form], force)
    cfg = load_recipe(config, arch=arch, data=data, options=options)
    model, meta = build(cfg, checkpoint)
    step, least = patch_step(model), least_patches(model)
    grids = _check_grids(model, size or cfg.get('crop_size') or (16 * step, 16 * step), step, least)
    inputs = [_pictures(n, h * step, w * step) for n, h, w in grids]
    command_line.note('Computing the logits to compare with.')
    _to_float(model, inputs[0])
    expected = [reference(model, images) for images in inputs]
    command_line.note(f'Exporting to {form}.')
    program = trace(model, step, least, f'{cfg.filename} as {form}')
    facts = metadata(cfg, model, meta, step, least)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='.export_') as folder:
        aside = Path(folder) / target.name
        writer.write(program, aside, facts)
        del program
        run = writer.open_file(aside)
        checks = []
        for images, logits in zip(inputs, expected, strict=True):
            try:
                checks.append(compare(run(images), logits))
            except Exception as error:  # a runtime's own classes
                return _refuse(target, f'does not run at {_shape(images.shape)}: {_first(error)}')
            print(_line(checks[-1]))
        worst = max(checks, key=lambda c: math.inf if math.isnan(c.relative) else c.relative)
        if not worst.passed:
            where = f'{worst.relative:.1e} relative at {_shape(worst.shape)}'
            return _refuse(target, f'differs by {where}; more than {TOLERANCE:g} is an error')
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


def patch_step(model: nn.Module) -> int:
    """Pixels in whose multiples an input's sides have to come."""
    test_cfg = getattr(model.data_preprocessor, 'test_cfg', None) or {}
    return getattr(model.backbone, 'patch_size', None) or test_cfg.get('size_divisor') or 32


def least_patches(model: nn.Module) -> int:
    """Patches that a side has at least: two, or more than one attention window.

    An exporter takes a count of one for a constant.
    """
    windows = [getattr(module, 'window', 0) for module in model.backbone.modules()]
    return max(1, *(w for w in windows if isinstance(w, int))) + 1


@torch.no_grad()
def reference(model: nn.Module, images: Tensor) -> Tensor:
    """Logits as mmseg computes them, from the preprocessor to the resizing: (B, C, H, W)."""
    pictures = [image.flip(0).to(torch.uint8) for image in images]  # BGR, as read from files
    facts = [dict(img_shape=tuple(images.shape[2:])) for _ in pictures]
    samples = [SegDataSample(metainfo=fact) for fact in facts]
    data = model.data_preprocessor(dict(inputs=pictures, data_samples=samples))
    return model.encode_decode(data['inputs'], facts)


@torch.no_grad()
def trace(model: nn.Module, step: int, least: int, what: str) -> torch.export.ExportedProgram:
    """A graph for any number of images of any size. The model's pooling is replaced in place.

    Raises:
        ValueError: Something in the model depends on the size or is not a tensor program.
    """
    model = ExportedSegmentor(model).eval()
    _replace_pools(model)
    batch = torch.export.Dim('batch', min=1)
    height, width = (step * torch.export.Dim(name, min=least) for name in ('rows', 'columns'))
    n, h, w = _traced(least)
    try:
        return torch.export.export(
            model,
            (torch.zeros(n, 3, h * step, w * step),),
            dynamic_shapes=({0: batch, 2: height, 3: width},),
            strict=False,
        )
    except Exception as error:  # whatever the exporter or the model raises means the same
        raise ValueError(f'{what}: this model cannot be exported: {_first(error)}') from error


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


def compare(found: Tensor, expected: Tensor) -> Check:
    """Logits of the file beside those of the model."""
    if found.shape != expected.shape:
        return Check(tuple(found.shape), math.nan, 0.0)
    relative = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    same = (found.argmax(1) == expected.argmax(1)).float().mean()
    B, _, H, W = expected.shape
    return Check((B, 3, H, W), relative.item(), same.item())


def usage(step: int, least: int) -> str:
    """How the file is called, in a sentence."""
    return (
        f'It takes images (B, 3, H, W) as float32 RGB 0 .. 255, H and W multiples of {step} from '
        f'{least * step}, and gives logits (B, C, H, W).'
    )


def write(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """Save as ``.pt2``; the metadata is its extra file :data:`METADATA`."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(facts)})


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """A ``.pt2`` as a function from images to logits."""
    return torch.no_grad()(torch.export.load(path).module())


def _refuse(target: Path, why: str) -> int:
    print(f'export.py: the exported file {why}, so {target} was not written.', file=sys.stderr)
    return command_line.FAILED


def _check_target(target: Path, suffix: str, force: bool) -> None:
    if target.suffix != suffix:
        raise ValueError(f'--out {target}: the file has to end in {suffix}.')
    if target.exists() and not force:
        raise ValueError(f'{target} is there already: --force replaces it, --out names another.')


def _traced(least: int) -> tuple[int, int, int]:
    """Images, rows and columns of patches that are traced, none of which is checked."""
    return 2, least + 3, least + 5


def _check_grids(
    model: nn.Module, size: Sequence[int], step: int, least: int
) -> list[tuple[int, int, int]]:
    """Images, rows and columns of patches: the size asked for, two others, the table's own."""
    h, w = (max(least, -(-side // step)) for side in size)
    grids = [(1, h, w), (3, max(least, h // 2), w + 3), (2, h + 1, max(least, 2 * w // 3))]
    arch = getattr(model.backbone, 'arch', None)
    if arch is not None and arch.grid_size >= least:
        grids.append((1, arch.grid_size, arch.grid_size))
    return [g for i, g in enumerate(grids) if g not in grids[:i] and g != _traced(least)]


def _pictures(n: int, height: int, width: int) -> Tensor:
    """Blotches and grain, whole numbers 0 .. 255: (n, 3, H, W) float32."""
    generator = torch.Generator().manual_seed(height * width + n)
    coarse = torch.rand(n, 3, 5, 6, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode='bicubic')
    grain = torch.rand(n, 3, height, width, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * grain)).clamp(0, 255).round()


def _to_float(model: nn.Module, images: Tensor) -> None:
    """Weights held in half precision become fp32, and what that changes is said."""
    held = {p.dtype for p in model.parameters()} - {torch.float32}
    if not held:
        return
    before = reference(model, images).float()
    model.float()
    after = reference(model, images)
    names = ', '.join(sorted(str(d).removeprefix('torch.') for d in held))
    print(
        f'Weights held in {names} are exported in fp32, which changes the logits by '
        f'{compare(before, after).relative:.1e} relative.'
    )


def _replace_pools(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                setattr(module, name, AdaptivePool((size, size) if isinstance(size, int) else size))


def _line(check: Check) -> str:
    return (
        f'{_shape(check.shape):>16}  difference {check.relative:.1e} relative, '
        f'{100 * check.same_labels:.2f} % of labels the same'
    )


def _shape(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape))


def _first(error: BaseException) -> str:
    """The first line of an exporter's pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0][:300]}' if lines else type(error).__name__
