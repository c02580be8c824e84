"""``tools/probe.py retrieve``: what it predicts, what it leaves, how it goes on."""

import argparse
import math
import os
import shlex
import signal
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mmdet_seg.command_line import INTERRUPTED, Failure
from mmdet_seg.probes import retrieve_command, retrieve_run, retrieve_state
from mmdet_seg.probes.frozen_encoder import open_encoder
from mmdet_seg.probes.memory_index import TorchIndex
from mmdet_seg.probes.patch_memory import PatchMemory
from mmdet_seg.probes.results import Results
from mmdet_seg.probes.retrieval import Retrieval, Setting
from mmdet_seg.probes.retrieve_results import published_rows
from mmdet_seg.probes.retrieve_run import RetrieveRun
from mmdet_seg.probes.segment_data import TestImage as ScoredImage
from tests.small_runs import tool
from tests.test_probes.others_encoders import others_encoder
from tests.test_probes.pixel_encoder import PixelEncoder
from tests.test_probes.segment_runs import SCENES

GRID = ('--layers', '1,3', '--neighbours', '5,30', '--temperature', '0.02,0.2')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('retrieve') / 'scenes'


def words(root, out, *more):
    data = [f'{s}_dataloader.dataset.{k}' for s in ('train', 'val') for k in SCENES]
    data += [f'{s}_dataloader.dataset.data_root={root}' for s in ('train', 'val')]
    fixed = ['random:tiny', '--workers', 0, '--device', 'cpu', '--crop', 56, '--pictures', 1]
    # --cfg-options ends where the next option begins.
    every = [*fixed, '--memory-size', 100, '--cfg-options', *data, *more, '--out', out]
    return [str(w) for w in every]


def run(root, out, *more):
    parser = argparse.ArgumentParser()
    retrieve_command.add_arguments(parser)
    job = RetrieveRun(parser.parse_args(words(root, out, *more)))
    return job.run(), job


@pytest.fixture(scope='module')
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')
    status, job = run(root, out, *GRID)
    assert status == 0
    return out, job


def test_what_a_run_leaves(whole, root):
    out, job = whole
    results = Results.read(out)
    assert [row['name'] for row in results.rows] == [
        f'layer{n}-{k}nn-t{t}' for n in (1, 3) for k in (5, 30) for t in ('0.02', '0.2')
    ]
    assert (results.task, results.protocol) == ('retrieve', 'hummingbird')
    assert results.encoder['identity'] == job.encoder.identity
    assert all(len(row['per_class']) == 16 and 0 < row['score'] < 100 for row in results.rows)
    assert len(job.memory) == 100
    assert 'Memory of 100 patches of 56 pixel crops' in ' '.join(results.notes)
    kinds = [p['kind'] for p in results.pictures]
    assert kinds.count('pca') == 4  # two validation images, two layers
    assert kinds[-2:] == ['worst', 'best']
    assert all((out / p['file']).stat().st_size > 100 for p in results.pictures)
    assert (out / 'report.html').read_text().count('<img') == len(results.pictures)
    assert not list(out.glob('*.safetensors'))  # nothing to go on with
    assert 0 < results.cost['encoder_seconds'] < results.cost['seconds']


def test_all_rows_together_are_each_alone(whole, root, tmp_path):
    rows = {row['name']: row for row in Results.read(whole[0]).rows}
    run(root, tmp_path, '--layers', 3, '--neighbours', 5, '--temperature', 0.2, '--pictures', 0)
    (alone,) = Results.read(tmp_path).rows
    assert alone == rows['layer3-5nn-t0.2']


def test_faiss_scores_what_torch_scores(whole, root, tmp_path):
    run(root, tmp_path, *GRID, '--index', 'faiss', '--pictures', 0)
    ours, theirs = Results.read(whole[0]), Results.read(tmp_path)
    assert [r['score'] for r in theirs.rows] == pytest.approx(
        [r['score'] for r in ours.rows], abs=0.02
    )
    run(root, tmp_path / 'ivf', *GRID, '--index', 'ivf', '--pictures', 0)
    notes = Results.read(tmp_path / 'ivf').notes
    assert sum('Approximate index: of layer' in note for note in notes) == 2


def test_labels_are_those_of_an_independent_search():
    """scikit-learn's neighbours, NumPy's softmax, one bilinear step; sizes that do not fit."""
    encoder = open_encoder('random:tiny', dtype='fp32')
    generator = torch.Generator().manual_seed(0)
    P, C, layer = encoder.patch_size, 5, 2
    memory = PatchMemory((layer,), 90, 3, encoder.embed_dim, C)
    for view in memory.views_left():
        image = torch.randn(1, 3, 6 * P, 6 * P, generator=generator)
        label = torch.randint(0, C, (6, 6), generator=generator)
        label = label.repeat_interleave(P, 0).repeat_interleave(P, 1)
        patches = encoder.features(image, [layer])[layer].patches[0]
        memory.add(view, {layer: patches}, label)
    features = memory.features(layer)
    row = Setting(layer, 7, 0.05)
    retrieval = Retrieval(encoder, {layer: TorchIndex(features)}, memory.labels(), [row])
    H, W = 3 * P - 5, 5 * P - 2
    pixels = torch.randn(3, H, W, generator=generator)
    test = ScoredImage(pixels, torch.zeros(H, W, dtype=torch.long), 'x')
    (found,) = retrieval.predict(test)

    padded = torch.zeros(1, 3, 3 * P, 5 * P)
    padded[0, :, :H, :W] = pixels
    queries = encoder.features(padded, [layer])[layer].patches[0].flatten(1).T.numpy()
    search = NearestNeighbors(n_neighbors=7, metric='cosine', algorithm='brute')
    distances, indices = search.fit(features.float().numpy()).kneighbors(queries)
    weights = np.exp((1 - distances) / 0.05)
    weights /= weights.sum(1, keepdims=True)
    shares = np.einsum('nk,nkc->nc', weights, memory.labels().float().numpy()[indices])
    maps = torch.from_numpy(shares.T.reshape(1, C, 3, 5).astype(np.float32))
    large = torch.nn.functional.interpolate(maps, (3 * P, 5 * P), mode='bilinear')
    expected = large[0, :, :H, :W].argmax(0)
    assert len(expected.unique()) > 1
    assert (found == expected).float().mean() > 0.999


def test_an_image_that_is_in_the_memory_is_recognised():
    """Features that tell patches apart and one neighbour: every patch gets its own label back."""
    encoder, generator = PixelEncoder(8, 0), torch.Generator().manual_seed(0)
    label = torch.randint(0, 6, (10, 12), generator=generator)
    label = label.repeat_interleave(16, 0).repeat_interleave(16, 1)
    pixels = torch.randn(3, 160, 192, generator=generator)
    memory = PatchMemory((0, 2), 10000, 1, encoder.embed_dim, 6)
    patches = {n: f.patches[0] for n, f in encoder.features(pixels[None], [0, 2]).items()}
    assert memory.add(0, patches, label) == 20 * 24
    indexes = {n: TorchIndex(memory.features(n)) for n in (0, 2)}
    rows = [Setting(2, 1, 0.02), Setting(0, 1, 0.02)]  # layer 0 sees nothing
    retrieval = Retrieval(encoder, indexes, memory.labels(), rows)
    test = ScoredImage(pixels, label, 'x')
    right, blind = ((found == label).float().mean() for found in retrieval.predict(test))
    assert right > 0.85  # borders are interpolated
    assert blind < 0.3


@pytest.mark.parametrize('after', [3, 11])
def test_an_interrupted_run_goes_on(whole, root, tmp_path, monkeypatch, capsys, after):
    """Ctrl-C while the memory is filled (10 views), and while 3 images are scored."""
    command = ['tools/probe.py', 'retrieve', *words(root, tmp_path / 'out', *GRID)]
    monkeypatch.setattr(sys, 'argv', command)
    count = 0

    def counted(method):
        def call(*args):
            nonlocal count
            count += 1
            if count == after:
                os.kill(os.getpid(), signal.SIGINT)
            return method(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(PatchMemory, 'add', counted(PatchMemory.add))
        patch.setattr(Retrieval, 'areas', counted(Retrieval.areas))
        status, job = run(root, tmp_path / 'out', *GRID)
    assert status == INTERRUPTED
    assert bool(job.areas) == (after > 10)
    assert not (tmp_path / 'out' / 'results.json').exists()
    printed = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert printed[-2:] == ['--resume', str(tmp_path / 'out')]
    with pytest.raises(ValueError, match='was made with seed 0, and now it is 1'):
        run(root, tmp_path / 'other', *GRID, '--seed', 1, '--resume', tmp_path / 'out')
    parser = argparse.ArgumentParser()
    retrieve_command.add_arguments(parser)
    again = RetrieveRun(parser.parse_args(printed[3:]))
    assert len(again.areas) == len(job.areas)
    assert again.memory.view == job.memory.view > 0
    assert again.run() == 0
    assert Results.read(tmp_path / 'out').rows == Results.read(whole[0]).rows


@pytest.mark.parametrize('kind', ['timm', 'dinov2', 'siglip', 'clip'])
def test_others_encoders_are_probed(root, tmp_path, kind):
    """Each with its own pixels, patch and last norm; what is kept are its features."""
    source = others_encoder(kind, tmp_path / 'encoder')
    more = ('--pictures', 0, '--layers', '-1', '--dtype', 'fp32')
    parser = argparse.ArgumentParser()
    retrieve_command.add_arguments(parser)
    job = RetrieveRun(parser.parse_args([source, *words(root, tmp_path / 'out', *more)[1:]]))
    assert job.run() == 0
    encoder, last = open_encoder(source, dtype='fp32'), job.encoder.depth - 1
    assert job.final_norm == encoder.has_final_norm
    assert tuple(job.data._preprocess.mean.flatten()) == pytest.approx(encoder.mean)
    results = Results.read(tmp_path / 'out')
    assert results.encoder['name'] == source
    assert 0 < results.best()['score'] < 100
    image, label = job.data.view(0)
    found = encoder.features(image[None], [last], final_norm=job.final_norm)
    again = PatchMemory((last,), 100, 10, encoder.embed_dim, 16)
    count = again.add(0, {last: found[last].patches[0]}, label)
    torch.testing.assert_close(job.memory.features(last)[:count], again.features(last))


class Killed(Exception):
    pass


@pytest.mark.parametrize('after', [6, 12])
def test_a_killed_run_goes_on(whole, root, tmp_path, monkeypatch, after):
    """While the memory is filled from 10 views four at a time, and while 3 images are scored."""
    count = 0

    def killed(method):
        def call(*args):
            nonlocal count
            count += 1
            if count == after:
                raise Killed
            return method(*args)

        return call

    monkeypatch.setattr(retrieve_run, '_SAVE_SECONDS', 0.0)
    monkeypatch.setattr(retrieve_run, '_SAVE_SHARE', math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(PatchMemory, 'add', killed(PatchMemory.add))
        patch.setattr(Retrieval, 'areas', killed(Retrieval.areas))
        with pytest.raises(Killed):
            run(root, tmp_path, *GRID)
    parser = argparse.ArgumentParser()
    retrieve_command.add_arguments(parser)
    again = RetrieveRun(parser.parse_args(words(root, tmp_path, *GRID, '--resume', tmp_path)))
    assert (again.memory.view, len(again.areas)) == {6: (4, 0), 12: (10, 1)}[after]
    assert again.run() == 0
    assert Results.read(tmp_path).rows == Results.read(whole[0]).rows


def test_a_state_that_cannot_be_written_ends_in_one_line(root, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(retrieve_state, 'save_file', full)
        with pytest.raises(Failure, match=r'No space .* --resume'):
            run(root, tmp_path, *GRID)
    monkeypatch.setattr(retrieve_state, 'free_bytes', lambda _: 1 << 20)
    with pytest.raises(ValueError, match=r'100 patches takes .* 1.0 MiB free: take a smaller'):
        run(root, tmp_path, *GRID)


def test_published_figures_are_of_the_same_memory():
    assert ('DINOv2 ViT-B/14', 69.1) in {
        (r['name'], r['score']) for r in published_rows('voc12', 102_400)
    }
    assert published_rows('voc12', 100) == published_rows('ade20k', 102_400) == []


@pytest.mark.parametrize(
    ('more', 'says'),
    [
        (['--layers', '0+1'], '--layers 0+1: neighbours are looked for in one layer at a time'),
        (['--neighbours', '0'], '--neighbours 0 is not above 0'),
        (['--temperature', 'hot'], '--temperature hot: give numbers'),
        (['--memory-size', '-5'], '--memory-size -5 is not above 0'),
        (['--views', '0'], '--views 0 is not above 0'),
        (['--crop', '300000'], '--crop 300006: 4 images of 300006x300006 pixels take'),
        (['--cfg-options', 'nothing=1'], '--cfg-options nothing: only the data'),
        (['--final-norm'], '--final-norm: random:tiny has no final norm'),
        (['--images', 'lost.png'], 'lost.png: no such image'),
        (['--resume'], '--resume: no memory.safetensors in'),
        (['--data', 'nothing'], '--data nothing: there are'),
    ],
)
def test_mistakes_have_one_line(root, tmp_path, more, says):
    done = tool('probe', 'retrieve', *words(root, tmp_path / 'out', *more), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f'probe.py: {says}')
    assert 'Traceback' not in done.stderr
