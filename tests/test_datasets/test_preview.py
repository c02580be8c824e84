"""The sheet of scenes: picture left, truth right, legend below."""

import numpy as np
from PIL import Image

from mmdet_seg.datasets.preview import color_mask, contact_sheet, main
from mmdet_seg.datasets.scenes import CLASSES, PALETTE, make_scene


def test_sheet_shows_scene_mask_and_legend() -> None:
    sheet = np.asarray(contact_sheet(2, seed=3, size=(96, 128), columns=1))
    scene = make_scene((3, 0), (96, 128))
    assert np.array_equal(sheet[:96, :128], scene.image)
    truth = sheet[:96, 130:258]
    assert (truth == color_mask(scene.mask)).all(-1).mean() > 0.8  # the rest is boxes
    legend = sheet[2 * 102 :].reshape(-1, 3)
    shown = {tuple(color) for color in legend.tolist()}
    assert {tuple(color) for color in PALETTE} <= shown
    assert len(CLASSES) == len(PALETTE)


def test_color_mask_paints_each_class_in_its_colour() -> None:
    mask = np.array([[0, 1], [2, len(CLASSES)]], np.uint8)
    expected = [[[0, 0, 0], PALETTE[0]], [PALETTE[1], PALETTE[-1]]]
    assert color_mask(mask).tolist() == expected


def test_command_writes_the_file(tmp_path, capsys) -> None:
    main([str(tmp_path / 'new' / 'sheet.png'), '--num', '1', '--columns', '1'])
    assert Image.open(tmp_path / 'new' / 'sheet.png').size[0] == 2 * 320 + 6
    assert 'sheet.png' in capsys.readouterr().out
