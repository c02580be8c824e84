"""Pictures side by side with their titles, as one PNG. Shapes: (H, W) pixels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmdet_seg.engine.prediction_panels import Panel

_GAP = 6
_INK, _PAPER = (51, 51, 51), (255, 255, 255)


def contact_sheet(rows: Sequence[Sequence[Panel]], side: int = 224) -> Image.Image:
    """Rows of panels, every panel fitted into a square of ``side`` pixels, titles above.

    Titles that are the same down a column are written once.
    """
    font = ImageFont.load_default(max(11, side // 17))
    line = round(font.size * 1.5)
    columns = max(len(row) for row in rows)
    boxes = [[fitted(panel.picture, side) for panel in row] for row in rows]
    titled = [i == 0 or _titles(rows[i]) != _titles(rows[i - 1]) for i in range(len(rows))]
    heights = [max(p.height for p in row) for row in boxes]
    height = sum(heights) + _GAP * (len(rows) + 1) + line * sum(titled)
    sheet = Image.new('RGB', (columns * (side + _GAP) + _GAP, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    y = _GAP
    for panels, pictures, tall, names in zip(rows, boxes, heights, titled, strict=True):
        for i, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
            x = _GAP + i * (side + _GAP)
            if names:
                pen.text((x, y), shortened(panel.title, font, side), _INK, font)
            sheet.paste(picture, (x, y + line * names + (tall - picture.height) // 2))
        y += tall + _GAP + line * names
    return sheet


def fitted(picture: np.ndarray, side: int) -> Image.Image:
    """(H, W, 3) uint8 as large as fits into a square of ``side``; small grids keep sharp cells."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, how)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text``, or its beginning and three dots where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '...') > width:
        text = text[:-1]
    return text + '...'


def _titles(row: Sequence[Panel]) -> list[str]:
    return [panel.title for panel in row]
