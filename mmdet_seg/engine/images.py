"""Reading the images a person has: any size, mode, depth and orientation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm')


def find_images(paths: Sequence[str]) -> list[Path]:
    """Images named by files, folders (searched through) or globs, each once, in order.

    Raises:
        FileNotFoundError: A path or pattern that gives no image.
    """
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        if path.is_dir():
            here = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
            if not here:
                raise FileNotFoundError(f'No image ({", ".join(SUFFIXES)}) in folder {path}.')
        elif path.is_file():
            here = [path]
        else:
            # The shell left the pattern as it is, or the caller quoted it.
            root = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else text
            here = sorted(p for p in root.glob(pattern) if p.suffix.lower() in SUFFIXES)
            if not here:
                raise FileNotFoundError(f'{text}: no such image, folder or match of a pattern.')
        found.update(dict.fromkeys(here))
    return list(found)


def read_image(path: str | Path) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, turned the way it is meant to be seen.

    Grey is repeated, transparency is laid over white, 16 bit and float are scaled to 8 bit (float
    from its own range), EXIF orientation is applied, palettes and CMYK are converted.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an image, or a broken one.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such image.') from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'{path} is not an image that can be read: {error}') from error
    if image.mode.startswith('I') or image.mode == 'F':
        image = Image.fromarray(_to_8_bit(np.asarray(image), image.mode))
    if image.mode in ('LA', 'PA', 'RGBA', 'RGBa', 'La') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert('RGB'))


def _to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    if mode == 'F':
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        scaled = (np.nan_to_num(values) - low) * (255 / max(high - low, 1e-12))
        return scaled.clip(0, 255).astype(np.uint8)
    # Pillow opens 16-bit PNGs as `I;16` or as 32-bit `I` with 16-bit values.
    values = values.astype(np.int64)
    top = 255 if values.max(initial=0) <= 255 and mode == 'I' else 65535
    return (values.clip(0, top) * 255 // top).astype(np.uint8)


def output_names(images: Iterable[Path]) -> list[str]:
    """One file stem per image; images of one name from several folders get their folders' names."""
    images = list(images)
    stems = [p.stem for p in images]
    names: list[str] = []
    for path, stem in zip(images, stems, strict=True):
        name = stem if stems.count(stem) == 1 else '_'.join([*path.parts[-3:-1], path.name])
        name = name.replace('/', '')
        n = 2
        while name in names:
            name, n = f'{stem}_{n}', n + 1
        names.append(name)
    return names
