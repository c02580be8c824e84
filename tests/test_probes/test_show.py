"""Pictures of features: the right cells, comparable colours, any image, one line for a mistake."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from mmdet_seg.probes.feature_pictures import fit, heat, look, read_attention, write_pictures
from mmdet_seg.probes.frozen_encoder import open_encoder
from mmdet_seg.probes.patch_colours import patch_colours, principal_components
from mmdet_seg.probes.quantized_encoder import quantize_encoder
from tests.small_runs import tool
from tests.test_probes.others_encoders import others_encoder
from tests.test_probes.pixel_encoder import PixelEncoder


@pytest.mark.parametrize('shape', [(300, 20), (30, 64), (5000, 8)])
def test_components_equal_scikit_learn(shape):
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(shape, generator=generator) * torch.arange(1, shape[1] + 1) ** 1.5
    ours = principal_components(cells, 3)
    theirs = PCA(3, svd_solver='full').fit(cells.numpy()[:: -(-shape[0] // 2048)])
    expected = (cells.numpy() - cells.numpy().mean(0)) @ theirs.components_.T
    # Of very many cells the axes come from every third, which is what was given to theirs too.
    torch.testing.assert_close(
        ours, torch.from_numpy(expected), rtol=1e-3, atol=1e-2 * abs(expected).max()
    )


def test_components_that_are_not_there_are_zero():
    assert principal_components(torch.ones(5, 2), 3).eq(0).all()
    assert principal_components(torch.ones(1, 8), 3).shape == (1, 3)
    (grid,) = patch_colours([torch.ones(8, 1, 1)])
    assert grid.shape == (1, 1, 3)


def test_colours_compare_between_images_and_do_not_depend_on_length():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(16, 4, 6, generator=generator)
    second = first.flip(2)[:, :, :3] * 7  # the same directions, longer
    one, two = patch_colours([first, second])
    assert one.shape == (4, 6, 3)
    np.testing.assert_allclose(two.astype(int), one[:, ::-1][:, :3].astype(int), atol=1)
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 20


def test_foreground_is_what_lies_inside():
    maps = torch.randn(8, 10, 10, generator=torch.Generator().manual_seed(0)) * 0.05
    maps[0] += 1
    maps[0, 3:7, 3:7] -= 2
    (grid,) = patch_colours([maps], foreground=True)
    inside = np.zeros((10, 10), bool)
    inside[3:7, 3:7] = True
    assert (grid.any(-1) == inside).all()
    (turned,) = patch_colours([-maps], foreground=True)  # whatever the sign of the axis
    assert (turned.any(-1) == inside).all()


@pytest.mark.parametrize('prefix', [0, 1, 5])
def test_cells_lie_where_the_image_has_them(prefix):
    image = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    image[:, 30:] = (30, 30, 200)
    image[24:32, 42:48] = 255  # the brightest patch: row 3, columns 5 and 6 of 8 pixels
    encoder = PixelEncoder(8, prefix)
    (shown,) = look(encoder, [('a', image)], [1], size=40)
    grid = shown.components[1]
    assert shown.image.shape == (40, 64, 3)  # the nearest multiple of the patch
    assert grid.shape == (5, 8, 3)
    assert (grid[:, :3] == grid[0, 0]).all()
    assert not (grid[0, :3] == grid[0, -1]).all()
    attention = shown.attention[1]
    assert attention.shape == (2, 5, 8)
    assert np.unravel_index(attention[0].argmax(), (5, 8)) == (3, 5)
    assert attention[0].sum() == pytest.approx(1)
    assert np.unravel_index(heat(attention.mean(0)).sum(-1).argmax(), (5, 8)) == (3, 5)


def test_attention_of_internvit_is_what_its_blocks_compute():
    """The class token's output of a block, from the weights that are shown."""
    encoder = open_encoder('random:tiny', dtype='fp32')
    P = encoder.patch_size
    images = torch.randn(1, 3, 3 * P, 4 * P, generator=torch.Generator().manual_seed(0))
    seen = {}
    attn = encoder.encoder.blocks[1].attn
    hook = attn.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    encoder.features(images, [1])
    hook.remove()
    weights = encoder.attention(images, 1)
    with torch.no_grad():
        v = attn.qkv(seen['x']).chunk(3, -1)[2].unflatten(-1, (encoder.num_heads, -1))
        out = attn.proj((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, seen['out'], rtol=1e-4, atol=1e-5)
    shown = read_attention(encoder, images, 1)
    assert shown.shape == (encoder.num_heads, 3, 4)
    np.testing.assert_allclose(shown.reshape(-1, 12), weights[0, :, 0, 1:], rtol=1e-5)


@pytest.mark.parametrize(
    ('shape', 'size'),
    [((1, 1), (16, 16)), ((7, 900), (16, 64)), ((900, 7), (64, 16)), ((33, 50), (16, 24))],
)
def test_any_size_becomes_whole_patches(shape, size):
    assert fit(np.zeros((*shape, 3), np.uint8), 16, 8).shape[:2] == size


def test_what_is_written_is_what_was_found(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    found = look(PixelEncoder(), [('a', image)], [1, 2], size=40)
    entries = write_pictures(found, tmp_path)
    assert {(e['kind'], e['layer']) for e in entries} == {
        ('image', None),
        *((kind, layer) for kind in ('pca', 'attention') for layer in (1, 2)),
    }
    for entry in entries:
        picture = np.asarray(Image.open(tmp_path / entry['file']))
        assert picture.shape == image.shape
        if entry['kind'] == 'pca':
            assert (picture[4::8, 4::8] == found[0].components[entry['layer']]).all()


def test_the_command_line_takes_what_people_have(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (30, 41, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / 'plain.jpg')
    Image.fromarray(colours[..., 0]).save(tmp_path / 'grey.png')
    Image.fromarray(np.dstack([colours, colours[..., 0]])).save(tmp_path / 'see through.png')
    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera upright
    Image.fromarray(colours).save(tmp_path / 'turned.jpg', exif=turned)
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG no more')
    out = tmp_path / 'out'
    done = tool('probe', 'show', 'random:tiny', tmp_path, '--out', out, '--size', 28)
    assert done.returncode == 1, done.stderr  # one was left out
    assert done.stderr.count('broken.png is not an image that can be read') == 1
    assert '4 of 5 images' in done.stdout
    assert Image.open(out / 'sheet.png').width > 4 * 224
    assert Image.open(out / 'turned_image.png').size == (28, 42)
    assert (out / 'see through_layer1_heads.png').exists()
    again = tmp_path / 'again'
    options = ('--encoder', 'random:tiny', '--layers', -1, '--no-attention', '--size', 28)
    plain = tmp_path / 'plain.jpg'
    done = tool('probe', 'show', plain, '--out', again, *options)
    assert done.returncode == 0, done.stderr
    assert not list(again.glob('*attention*'))


def test_a_quantised_encoder_is_shown_beside_the_encoder_as_it_is(tmp_path):
    """The change that is printed is that of the two encoders' features of these images."""
    pixels = np.random.default_rng(1).integers(0, 255, (2, 28, 42, 3), np.uint8)
    for name, image in zip('ab', pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f'{name}.png')
    out, words = tmp_path / 'out', ('--size', 28, '--layers', '1,3', '--device', 'cpu')
    options = (*words, '--quantize', 'int8')
    done = tool('probe', 'show', 'random:tiny', tmp_path, '--out', out, *options)
    assert done.returncode == 0, done.stderr
    encoders = [open_encoder('random:tiny') for _ in range(2)]
    quantize_encoder(encoders[1], 'int8')
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoders[0].mean, encoders[0].std))
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - mean) / std
    before, after = (e.features(batch, [1, 3]) for e in encoders)
    for layer in (1, 3):
        a, b = (x[layer].patches.float() for x in (after, before))
        rms = float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
        printed = next(x for x in done.stdout.splitlines() if x.startswith(f'| {layer} |'))
        assert float(printed.split('|')[2].strip(' %')) == pytest.approx(100 * rms, abs=0.02)
    assert {p.name for p in out.glob('a*_pca.png')} == {
        f'a{end}_layer{n}_pca.png' for end in ('', '_unquantized') for n in (1, 3)
    }
    words = (*words, '--quantize', 'int8', '--no-compare-quantized')
    done = tool('probe', 'show', 'random:tiny', tmp_path / 'a.png', '--out', out / 'x', *words)
    assert done.returncode == 0, done.stderr
    assert 'is not measured' in done.stderr
    assert not list((out / 'x').glob('*unquantized*'))


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['a.jpg'], 'Which encoder? Put it before the images or give --encoder'),
        (['random:tiny', 'lost.jpg'], 'lost.jpg: no such image'),
        (['random:tiny', 'a.jpg', '--layers', '99'], 'layer 99 is not one of the'),
        (['random:tiny', 'a.jpg', '--layers', 'top'], '--layers top: give numbers'),
        (['random:tiny', 'a.jpg', '--compare-quantized'], 'compares with --quantize'),
        (['random:tiny', 'a.jpg', '--size', '300000'], '--size 300000: an image of'),
        (['random:tiny', 'a.jpg', '--size', '5'], '--size 5 is less than one patch'),
        (['random:tiny', 'bad.jpg'], 'None of 1 images could be read'),
    ],
)
def test_mistakes_have_one_line(tmp_path, words, says):
    Image.new('RGB', (30, 30)).save(tmp_path / 'a.jpg')
    (tmp_path / 'bad.jpg').write_text('no')
    done = tool('probe', 'show', *words, '--out', 'out', cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('probe.py: ')
    assert says in last


@pytest.mark.parametrize('kind', ['timm', 'dinov2', 'siglip', 'clip'])
def test_others_encoders_are_shown(tmp_path, kind):
    """Their own means, prefixes and patches: the pictures are those of their features."""
    source = others_encoder(kind, tmp_path / 'encoder')
    image = np.random.default_rng(2).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    words = ('--size', 32, '--layers', 'last:1', '--dtype', 'fp32', '--device', 'cpu')
    done = tool('probe', 'show', source, tmp_path / 'a.png', '--out', tmp_path / 'out', *words)
    assert done.returncode == 0, done.stderr
    encoder = open_encoder(source, dtype='fp32')
    last, P = encoder.depth - 1, encoder.patch_size
    seen = np.asarray(Image.open(tmp_path / 'out' / 'a_image.png'))
    pixels = (seen.astype(np.float32) - encoder.mean) / encoder.std
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    (grid,) = patch_colours([encoder.features(batch, [last])[last].patches[0]])
    drawn = np.asarray(Image.open(tmp_path / 'out' / f'a_layer{last}_pca.png'))
    np.testing.assert_allclose(drawn[P // 2 :: P, P // 2 :: P].astype(int), grid, atol=1)
    assert Image.open(tmp_path / 'out' / f'a_layer{last}_heads.png').width > 100
