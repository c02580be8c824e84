"""Pictures of the user's own images in every report."""

import numpy as np
from PIL import Image

from mmdet_seg.probes.own_images import patch_pictures
from tests.test_probes.pixel_encoder import PixelEncoder


class Windowed(PixelEncoder):
    """Like an encoder whose blocks attend within windows."""

    def attention(self, images, layer):
        raise ValueError('pictures need a block that sees everything.')


def test_files_arrays_and_what_cannot_be_read(tmp_path, capsys):
    Image.new('RGB', (50, 30), 'red').save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_text('no')
    images = [tmp_path / 'a.png', str(tmp_path / 'b.png')]
    images.append(('c/d 1', np.zeros((20, 20, 3), np.uint8)))
    entries = patch_pictures(PixelEncoder(), [2, 1, 1], tmp_path / 'run', images)
    assert {e['group'] for e in entries} == {'a', 'c_d 1'}
    assert {e['layer'] for e in entries if e['kind'] == 'pca'} == {1, 2}
    assert all((tmp_path / 'run' / e['file']).is_file() for e in entries)
    assert capsys.readouterr().err.count('b.png is not an image') == 1


def test_attention_that_cannot_be_shown_is_left_out(tmp_path, capsys):
    image = ('a', np.zeros((20, 20, 3), np.uint8))
    entries = patch_pictures(Windowed(), [1], tmp_path, [image])
    assert [e['kind'] for e in entries] == ['image', 'pca']
    assert 'No pictures of attention: pictures need a block' in capsys.readouterr().err


def test_of_many_layers_the_spread_ones_are_shown(tmp_path):
    encoder = PixelEncoder()
    encoder.depth = 24
    seen = {}
    features = encoder.features

    def several(images, layers, **_):
        seen['layers'] = layers
        return {n: features(images, [1])[1] for n in layers}

    encoder.features = several
    image = ('a', np.zeros((20, 20, 3), np.uint8))
    patch_pictures(encoder, range(24), tmp_path, [image])
    assert tuple(seen['layers']) == (0, 5, 9, 14, 18, 23)
