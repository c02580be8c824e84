"""Images as people have them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdet_seg.engine.images import find_images, output_names, read_image

RGB = np.zeros((4, 6, 3), np.uint8)
RGB[:2, :3] = (200, 100, 50)  # the top left is marked


def test_grey_palette_alpha_and_cmyk(tmp_path):
    image = Image.fromarray(RGB)
    for mode in ('L', 'P', 'CMYK', '1'):
        path = tmp_path / f'{mode}.{"tif" if mode == "CMYK" else "png"}'
        image.convert(mode).save(path)
        assert read_image(path).shape == (4, 6, 3)
    alpha = np.dstack([RGB, np.full((4, 6), 255, np.uint8)])
    alpha[2:, :, 3] = 0
    Image.fromarray(alpha).save(tmp_path / 'rgba.png')
    read = read_image(tmp_path / 'rgba.png')
    assert (read[2:] == 255).all()  # transparent is white, not whatever lies below
    assert (read[0, 0] == (200, 100, 50)).all()


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    Image.fromarray(RGB).save(tmp_path / 'turned.png', exif=exif)
    read = read_image(tmp_path / 'turned.png')
    assert read.shape == (6, 4, 3)
    assert (read[0, -1] == (200, 100, 50)).all()


def test_sixteen_bits_and_float(tmp_path):
    ramp = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / 'deep.png')
    read = read_image(tmp_path / 'deep.png')[..., 0]
    assert abs(read.astype(int) - (ramp // 257)).max() <= 1
    Image.fromarray(ramp.astype(np.float32) / 1e4).save(tmp_path / 'float.tif')
    assert read_image(tmp_path / 'float.tif').min() == 0
    assert read_image(tmp_path / 'float.tif').max() >= 254


@pytest.mark.parametrize('content', [b'', b'<html>', b'\x89PNG\r\n\x1a\nxx'])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / 'broken.png'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'broken\.png is not an image that can be read'):
        read_image(path)


def test_a_truncated_image(tmp_path):
    path = tmp_path / 'cut.jpg'
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r'cut\.jpg is not an image'):
        read_image(path)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    for name in ('a.png', 'b.JPG', 'sub/c.png', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in find_images(['.'])] == ['a.png', 'b.JPG', 'c.png']
    assert find_images(['a.png', './a.png', '*.png']) == [Path('a.png')]
    assert [p.name for p in find_images([str(tmp_path / '*' / '*.png')])] == ['c.png']
    for missing in ('nothing.png', '*.webp'):
        with pytest.raises(FileNotFoundError, match='no such image'):
            find_images([missing])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='No image'):
        find_images(['empty'])


def test_names_never_collide():
    paths = [Path(p) for p in ('x/a.png', 'y/a.png', 'y/b.png', 'a.jpg', 'q/x/a.png')]
    names = output_names(paths)
    assert len(set(names)) == len(paths)
    assert names[2] == 'b'
    assert not any('/' in n for n in names)
