"""The part of a segmentor that is exported, and its graph for any size.

Shapes: B images, C classes, (H, W) pixels, P the step in which sizes may vary, S bins over n cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        maps = maps if self.neck is None else self.neck(maps)
        # Heads of queries have masks and classes of them, and bring them together here.
        head = getattr(self.decode_head, 'segment', self.decode_head)
        logits = head(maps)
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


def patch_step(model: nn.Module) -> int:
    """Pixels in whose multiples an input's sides have to come."""
    test_cfg = getattr(model.data_preprocessor, 'test_cfg', None) or {}
    return getattr(model.backbone, 'patch_size', None) or test_cfg.get('size_divisor') or 32


def least_patches(model: nn.Module) -> int:
    """Patches that a side has at least: two, or more than one attention window or coarsest cell.

    An exporter takes a count of one for a constant.
    """
    windows = [getattr(module, 'window', 0) for module in model.backbone.modules()]
    spec = model.backbone.output_spec() if hasattr(model.backbone, 'output_spec') else []
    cells = [stride // patch_step(model) for _, stride in spec]
    return max(1, *(w for w in [*windows, *cells] if isinstance(w, int))) + 1


def traced_grid(least: int) -> tuple[int, int, int]:
    """Images, rows and columns of patches that are traced, none of which is checked."""
    return 2, least + 3, least + 5


@torch.no_grad()
def trace(model: nn.Module, step: int, least: int, what: str) -> torch.export.ExportedProgram:
    """A graph for any number of images of any size. The model's pooling is replaced in place.

    Args:
        model: An mmseg ``EncoderDecoder`` in eval mode.
        step: P, of :func:`patch_step`.
        least: Fewest patches of a side, of :func:`least_patches`.
        what: Words for the error.

    Raises:
        ValueError: Something in the model depends on the size or is not a tensor program.
    """
    model = ExportedSegmentor(model).eval()
    _replace_pools(model)
    batch = torch.export.Dim('batch', min=1)
    height, width = (step * torch.export.Dim(name, min=least) for name in ('rows', 'columns'))
    n, h, w = traced_grid(least)
    try:
        return torch.export.export(
            model,
            (torch.zeros(n, 3, h * step, w * step),),
            dynamic_shapes=({0: batch, 2: height, 3: width},),
            strict=False,
        )
    except Exception as error:  # whatever the exporter or the model raises means the same
        raise ValueError(f'{what}: this model cannot be exported: {first_line(error)}') from error


def first_line(error: BaseException) -> str:
    """The first line of an exporter's pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0][:300]}' if lines else type(error).__name__


def _bins(cells: int, bins: int, like: Tensor) -> Tensor:
    index = torch.arange(bins, device=like.device)[:, None]
    first = index * cells // bins
    last = ((index + 1) * cells + bins - 1) // bins
    place = torch.arange(cells, device=like.device)[None]
    inside = ((place >= first) & (place < last)).to(like.dtype)
    return inside / (last - first)


def _replace_pools(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                setattr(module, name, AdaptivePool((size, size) if isinstance(size, int) else size))
