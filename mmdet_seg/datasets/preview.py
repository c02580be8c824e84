"""A sheet of scenes with their masks.

python -m mmdet_seg.datasets.preview OUT.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmdet_seg.datasets.scenes import CLASSES, PALETTE, THING_CLASSES, Scene, make_scene

_GAP = 6
_UNLABELLED = (0, 0, 0)
_ENTRY = (118, 20)  # width and height of one entry of the legend, pixels


def color_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) of class numbers, 0 = unlabelled, in the classes' colours: (H, W, 3) uint8."""
    return np.array([_UNLABELLED, *PALETTE], np.uint8)[mask]


def contact_sheet(
    num_scenes: int = 8, seed: int = 0, size: tuple[int, int] = (256, 320), columns: int = 2
) -> Image.Image:
    """Scenes, each with its mask and boxes to the right, and a legend below.

    Args:
        num_scenes: Scenes to draw.
        seed: Of the whole sheet.
        size: Height and width of a scene in pixels.
        columns: Scenes in a row.
    """
    height, width = size
    tile = (2 * width + _GAP, height + _GAP)
    rows = -(-num_scenes // columns)
    per_row = max(1, (columns * (tile[0] + _GAP)) // _ENTRY[0])
    legend_rows = -(-(len(CLASSES) + 1) // per_row)
    sheet = Image.new(
        'RGB',
        (columns * (tile[0] + _GAP) - _GAP, rows * tile[1] + legend_rows * _ENTRY[1]),
        'white',
    )
    for index in range(num_scenes):
        scene = make_scene((seed, index), size)
        x, y = (index % columns) * (tile[0] + _GAP), (index // columns) * tile[1]
        sheet.paste(Image.fromarray(scene.image), (x, y))
        sheet.paste(_truth(scene), (x + width + 2, y))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    entries = [*zip(CLASSES, PALETTE, strict=True), ('unlabelled', _UNLABELLED)]
    for index, (name, color) in enumerate(entries):
        x, y = index % per_row * _ENTRY[0], rows * tile[1] + index // per_row * _ENTRY[1]
        pen.rectangle((x + 2, y + 3, x + 20, y + 16), fill=tuple(color), outline='black')
        pen.text((x + 26, y + 2), name + (' *' if name in THING_CLASSES else ''), 'black', font)
    return sheet


def _truth(scene: Scene) -> Image.Image:
    """The mask in colours with the instances' boxes."""
    picture = Image.fromarray(color_mask(scene.mask))
    pen = ImageDraw.Draw(picture)
    for instance in scene.instances:
        x0, y0, x1, y1 = instance.box
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline='black' if instance.crowd else 'white')
    return picture


def main(arguments: list[str] | None = None) -> None:
    """Write a sheet to the file named on the command line."""
    parser = argparse.ArgumentParser(description='Draw built-in scenes beside their masks.')
    parser.add_argument('out', type=Path, help='PNG or JPEG file to write')
    parser.add_argument('--num', type=int, default=8, help='scenes (default: 8)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the sheet (default: 0)')
    parser.add_argument('--columns', type=int, default=2, help='scenes in a row (default: 2)')
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(options.num, options.seed, columns=options.columns).save(options.out)
    print(f'{options.num} scenes: {options.out}')


if __name__ == '__main__':
    main()
