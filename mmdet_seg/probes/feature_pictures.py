"""Pictures of what an encoder makes of images: components of patches, attention of heads.

Shapes: (H, W) pixels, (h, w) grid, K prefix tokens, D channels, N = h * w patches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmdet_seg.engine.prediction_panels import Panel
from mmdet_seg.probes.contact_sheet import contact_sheet
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.patch_colours import patch_colours
from mmdet_seg.probes.pixel_memory import check_pixels

_WIDEST = 4  # sides of an image that is encoded are at most this many times as long as each other
_MOST_BYTES = 8 << 30  # of features held at once, and of one block's attention
_HEADS_IN_A_ROW = 8
_BRIGHTEST = 0.995  # quantile of attention that gets the brightest colour


@dataclass
class Shown:
    """One image and what was found.

    Attributes:
        name: For files and titles.
        image: (H, W, 3) uint8, as the encoder saw it; multiples of the patch.
        components: Layer to (h, w, 3) uint8 colours.
        attention: Layer to (heads, h, w) float32.
        maps: Layer to (D, h, w) on the CPU, until they are coloured.
        title: Above the image.
    """

    name: str
    image: np.ndarray
    components: dict[int, np.ndarray] = field(default_factory=dict)
    attention: dict[int, np.ndarray] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)
    title: str = 'image'


def fit(image: np.ndarray, side: int, patch: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 to a short side of about ``side``, multiples of ``patch``.

    The aspect is kept as far as the patch allows; of very long images the long side is shortened.
    """
    size = fitting_size(image, side, patch)
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)


def fitting_size(image: np.ndarray, side: int, patch: int) -> tuple[int, int]:
    """(H, W) that :func:`fit` resizes to."""
    height, width = image.shape[:2]
    scale, most = side / min(height, width), _WIDEST * max(1, round(side / patch))
    cells = (max(1, round(scale * n / patch)) for n in (height, width))
    rows, columns = (min(n, most) * patch for n in cells)
    return rows, columns


def look(
    encoder: FrozenEncoder,
    images: Iterable[tuple[str, np.ndarray]],
    layers: Sequence[int],
    *,
    size: int | None = None,
    foreground: bool = False,
    attention: bool = True,
) -> list[Shown]:
    """:func:`read_features`, then :func:`paint`."""
    found = read_features(encoder, images, layers, size=size, attention=attention)
    paint(found, foreground=foreground)
    return found


def paint(found: Sequence[Shown], *, foreground: bool = False) -> None:
    """Colour the maps of all images together, and let go of them.

    Args:
        found: From :func:`read_features`, perhaps of several encoders of the same channels.
        foreground: See :func:`mmdet_seg.probes.patch_colours.patch_colours`.
    """
    for layer in list(found[0].maps) if found else ():
        maps = [shown.maps.pop(layer) for shown in found]
        for shown, picture in zip(found, patch_colours(maps, foreground=foreground), strict=True):
            shown.components[layer] = picture


@torch.no_grad()
def read_features(
    encoder: FrozenEncoder,
    images: Iterable[tuple[str, np.ndarray]],
    layers: Sequence[int],
    *,
    size: int | None = None,
    attention: bool = True,
) -> list[Shown]:
    """Run images through an encoder, each at its own size.

    Args:
        encoder: Frozen.
        images: Name and (H, W, 3) uint8 RGB of any size.
        layers: Blocks, from 0.
        size: Short side in pixels; None is the encoder's own.
        attention: Whether attention is wanted too.

    Raises:
        ValueError: More is asked for than fits into memory.
    """
    layers = encoder.check_layers(layers)
    side = size or encoder.img_size
    if side < encoder.patch_size:
        raise ValueError(
            f'--size {side} is less than one patch of {encoder.name}, {encoder.patch_size} pixels.'
        )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    found, held = [], 0
    for name, original in images:
        fits = fitting_size(original, side, encoder.patch_size)
        check_pixels(f'--size {side}', fits, encoder)
        shown = Shown(name, fit(original, side, encoder.patch_size))
        pixels = torch.from_numpy(shown.image.copy()).permute(2, 0, 1)
        batch = ((pixels - mean) / std)[None].to(encoder.device, encoder.dtype)
        for layer, features in encoder.features(batch, layers).items():
            kept = features.patches[0].contiguous().cpu()
            shown.maps[layer] = kept
            held += kept.nbytes
        if held > _MOST_BYTES:
            raise ValueError(
                f'After {len(found) + 1} images the features of {len(layers)} layers hold '
                f'{held >> 30} GiB, and the colours need all at once; give fewer images or '
                'layers, or a smaller --size.'
            )
        if attention:
            shown.attention = {n: read_attention(encoder, batch, n) for n in layers}
        found.append(shown)
    return found


def read_attention(encoder: FrozenEncoder, batch: Tensor, layer: int) -> np.ndarray:
    """What the class token looks at; without one, what all patches look at on average.

    Args:
        encoder: Frozen.
        batch: (1, 3, H, W).
        layer: Block, from 0.

    Returns:
        (heads, h, w) float32.
    """
    h, w = (n // encoder.patch_size for n in batch.shape[-2:])
    K = encoder.num_prefix_tokens
    asked = 4 * encoder.num_heads * (K + h * w) ** 2
    if asked > _MOST_BYTES:
        raise ValueError(
            f'The attention of {h}x{w} patches in {encoder.num_heads} heads takes '
            f'{asked >> 30} GiB; take a smaller --size or --no-attention.'
        )
    weights = encoder.attention(batch, layer)[0, :, :, K:]  # (heads, K + N, N)
    rows = weights[:, 0] if K else weights.mean(1)
    return rows.unflatten(-1, (h, w)).float().cpu().numpy()


def heat(weights: np.ndarray) -> np.ndarray:
    """(h, w) weights as (h, w, 3) uint8, black for none to bright for the most of this map."""
    top = float(np.quantile(weights, _BRIGHTEST))
    colours = matplotlib.colormaps['inferno'](np.clip(weights / max(top, 1e-12), 0, 1))
    return (255 * colours[..., :3]).round().astype(np.uint8)


def write_pictures(found: Sequence[Shown], folder: Path) -> list[dict[str, Any]]:
    """Write a PNG for every image, layer and kind, and ``sheet.png`` with all of them.

    Returns:
        Entries for :attr:`mmdet_seg.probes.results.Results.pictures`, sheets of heads left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []

    def write(shown: Shown, grid: np.ndarray, kind: str, title: str, layer: int | None) -> None:
        where = f'_layer{layer}' if layer is not None else ''
        file = f'{shown.name}{where}_{kind}.png'
        size = shown.image.shape[1::-1]
        Image.fromarray(grid).resize(size, Image.Resampling.NEAREST).save(folder / file)
        entry = {'title': title, 'file': file, 'kind': kind, 'group': shown.name, 'layer': layer}
        entries.append(entry)

    for shown in found:
        write(shown, shown.image, 'image', 'image', None)
        for layer, grid in shown.components.items():
            write(shown, grid, 'pca', f'layer {layer}, components', layer)
        for layer, heads in shown.attention.items():
            write(shown, heat(heads.mean(0)), 'attention', f'layer {layer}, attention', layer)
            head_sheet(shown, layer).save(folder / f'{shown.name}_layer{layer}_heads.png')
    if found:
        contact_sheet([sheet_row(shown) for shown in found]).save(folder / 'sheet.png')
    return entries


def sheet_row(shown: Shown) -> list[Panel]:
    """The image, then every layer's components, then every layer's attention."""
    row = [Panel(shown.image, shown.title)]
    row += [Panel(g, f'layer {n}, components') for n, g in shown.components.items()]
    row += [Panel(heat(a.mean(0)), f'layer {n}, attention') for n, a in shown.attention.items()]
    return row


def head_sheet(shown: Shown, layer: int) -> Image.Image:
    """The image, the mean of the heads and every head."""
    heads = shown.attention[layer]
    panels = [Panel(shown.image, 'image'), Panel(heat(heads.mean(0)), 'mean of heads')]
    panels += [Panel(heat(head), f'head {i}') for i, head in enumerate(heads)]
    rows = [panels[i : i + _HEADS_IN_A_ROW] for i in range(0, len(panels), _HEADS_IN_A_ROW)]
    return contact_sheet(rows, side=160)
