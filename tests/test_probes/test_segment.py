"""``tools/probe.py segment``: grids, what runs leave, and how they go on."""

import math
import os
import shlex
import shutil
import signal
import sys

import pytest
import torch

from mmdet_seg.command_line import INTERRUPTED, Failure
from mmdet_seg.engine.evaluation import evaluate
from mmdet_seg.probes import segment_finish
from mmdet_seg.probes.protocols import get_protocol
from mmdet_seg.probes.results import Results
from mmdet_seg.probes.segment_data import data_config, pad_to_patch
from mmdet_seg.probes.segment_evaluate import predict
from mmdet_seg.probes.segment_grid import make_grid, parse_layers, parse_numbers, resolve_protocol
from mmdet_seg.probes.segment_published import published_rows
from mmdet_seg.probes.segment_run import SegmentRun
from mmdet_seg.probes.segment_store import views_key
from mmdet_seg.probes.segment_train import ProbeTrainer
from tests.golden_data import relative_error
from tests.test_probes.segment_runs import make_encoder, run, segment_args, trained

WIDE = ('--layers', '1,0+3', '--norms', 'bn,ln', '--lr', '1e-2,1e-3', '--seeds', '0,1')


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    """A tiny encoder's file and a folder for scenes."""
    root = tmp_path_factory.mktemp('segment')
    return make_encoder(root / 'tiny.safetensors'), root / 'scenes'


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(segment_finish, 'write_report', lambda folder: folder / 'report.html')


@pytest.fixture(scope='module')
def wide(here, tmp_path_factory):
    """Sixteen probes with dropout."""
    out = tmp_path_factory.mktemp('wide')
    status, job = run(*here, out, *WIDE, '--dropout', '0.2')
    assert status == 0
    return out, job


def test_what_a_run_leaves(wide):
    out, job = wide
    results = Results.read(out)
    assert len(results.rows) == 16
    assert results.encoder['identity'] == job.encoder.identity
    assert results.data['num_train'] == 10
    assert len(results.data['classes']) == len(results.best()['per_class']) == 16
    assert 0 < results.best()['score'] == results.best()['scores']['mIoU'] <= 100
    assert {tuple(row['layers']) for row in results.rows} == {(1,), (0, 3)}
    for row in results.rows:
        losses = results.curves[row['name']]['loss']
        assert [step for step, _ in losses] == [1, 6]
        # Logits near zero: of C classes each has a share of 1 / C, of unlabelled pixels none.
        assert losses[0][1] == pytest.approx(math.log(16), rel=0.25)
    text = ' '.join(results.notes)
    assert "iters 6 (the protocol's: 80000)" in text
    assert 'rate, 4e-05, is not among those tried' in text
    kinds = [p['kind'] for p in results.pictures]
    assert kinds.count('pca') == 2 * 3  # two validation images, three layers
    assert kinds[-2:] == ['worst', 'best']
    assert all((out / p['file']).stat().st_size > 100 for p in results.pictures)
    assert (out / 'report.html').is_file()
    assert results.cost['probes'] == 16
    assert 0 < results.cost['encoder_seconds'] < results.cost['seconds']


@pytest.mark.parametrize(
    ('alone', 'name'),
    [
        (('--layers', '0+3', '--lr', '1e-3', '--seeds', '1'), 'layer0+3-bn-lr0.001-wd0-seed1'),
        (('--layers', '1', '--lr', '1e-2', '--norms', 'ln'), 'layer1-ln-lr0.01-wd0-seed0'),
    ],
)
def test_a_probe_of_many_is_the_probe_alone_to_the_last_bit(
    here, wide, tmp_path, no_report, alone, name
):
    run(*here, tmp_path, *alone, '--dropout', '0.2')
    together, found = trained(wide[0]), trained(tmp_path)
    assert {k.split('|')[0] for k in found} == {name}
    for key, value in found.items():
        assert torch.equal(value, together[key]), key
    others = [r['score'] for r in Results.read(wide[0]).rows if r['name'] == name]
    assert others == [r['score'] for r in Results.read(tmp_path).rows]


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_as_if_it_had_not_been(here, wide, tmp_path, no_report, monkeypatch):
    whole = ProbeTrainer.train_step

    def until(self, *args):
        if self.step == 5:
            raise Killed
        whole(self, *args)

    words = (*WIDE, '--dropout', '0.2', '--save-every', '2')
    monkeypatch.setattr(ProbeTrainer, 'train_step', until)
    with pytest.raises(Killed):
        run(*here, tmp_path, *words)
    monkeypatch.setattr(ProbeTrainer, 'train_step', whole)
    assert sorted(p.name for p in tmp_path.glob('iter_*')) == ['iter_2', 'iter_4']
    with pytest.raises(ValueError, match=r'iter_4 was made with probes .*give the same options'):
        run(*here, tmp_path, '--lr', '1e-2', '--resume', tmp_path)
    assert run(*here, tmp_path, *words, '--resume', tmp_path)[0] == 0
    expected, found = trained(wide[0]), trained(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    rows = [r.rows for r in (Results.read(wide[0]), Results.read(tmp_path))]
    assert rows[0] == rows[1]
    assert Results.read(tmp_path).curves == Results.read(wide[0]).curves


def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(
    here, tmp_path, no_report, monkeypatch, capsys
):
    whole = ProbeTrainer.train_step

    def interrupted(self, *args):
        whole(self, *args)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    argv = ['tools/probe.py', 'segment', 'ENCODER', '--out', 'elsewhere', '--lr', '1e-2']
    monkeypatch.setattr(ProbeTrainer, 'train_step', interrupted)
    monkeypatch.setattr(sys, 'argv', argv)
    before = signal.getsignal(signal.SIGINT)
    assert run(*here, tmp_path, '--lr', '1e-2')[0] == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().out
    command = (
        f'python tools/probe.py segment ENCODER --lr 1e-2 --resume {shlex.quote(str(tmp_path))}'
    )
    assert command in said
    assert (tmp_path / 'iter_3').is_dir()


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        (('--layers', '0+2'), 'layer0+2-bn-lr0.001-wd0-seed0'),
        (('--no-short', '--norms', 'none', '--lr', '1e-2'), 'layer3-none-lr0.01-wd0-seed0'),
    ],
    ids=['whole images', 'sliding windows'],
)
def test_the_figure_is_that_of_tools_test(here, tmp_path, no_report, capsys, words, name):
    run(*here, tmp_path, *words)
    [row] = Results.read(tmp_path).rows
    head = tmp_path / 'heads' / name
    assert str(head) in capsys.readouterr().out
    status = evaluate(f'{head}.py', str(head), work_dir=str(tmp_path / 'test'))
    assert status == 0
    said = capsys.readouterr().out
    assert f'mIoU: {row["score"]:.2f}' in said
    assert f'aAcc: {row["scores"]["aAcc"]:.2f}' in said


def test_training_from_a_store_of_fixed_views(here, tmp_path, no_report, capsys):
    words = ('--layers', '0,3', '--lr', '1e-2', '--store', tmp_path / 'store', '--store-views', '2')
    status, job = run(*here, tmp_path / 'a', *words)
    assert status == 0
    assert len(job.store) == 2 * job.data.num_train
    assert job.seconds['encoder'] == 0
    # What is trained on are the encoder's own features of the views.
    features, labels = job.store.batch([3, 13], [3])
    views = [job.data.view(i) for i in (3, 13)]
    assert torch.equal(labels, torch.stack([label for _, label in views]))
    assert not torch.equal(views[0][0], views[1][0])  # one image, two augmentations
    exact = job.encoder.features(torch.stack([image for image, _ in views]), [3])[3].patches
    assert relative_error(features[3].patches.float(), exact.float()) < 0.01
    results = Results.read(tmp_path / 'a')
    assert any('2 fixed views' in note for note in results.notes)
    assert results.cost['disk_bytes'] == job.store.disk_bytes > 0
    before = views_key(job.data, job.cfg, 2)
    again = run(*here, tmp_path / 'b', *words)[1]  # opened, not made again
    assert again.store.key == job.store.key
    assert Results.read(tmp_path / 'b').rows == results.rows
    job.data.seed = 1
    assert views_key(job.data, job.cfg, 2) != before


def test_padding_on_all_sides(here, tmp_path, no_report):
    status, job = run(*here, tmp_path, '--protocol', 'dinov2', '--no-short', '--crop', '64')
    assert status == 0
    assert job.protocol.crop == 64  # no multiple of the patch: 3 zeros on every side
    images, labels = next(job.data.batches(0, 2))
    assert images.shape == (2, 3, 70, 70)
    assert labels.shape == (2, 64, 64)
    assert images[:, :, :3].abs().max() == images[..., -3:].abs().max() == 0
    assert (images[:, :, 3:67, 3:67].std(dim=(2, 3)) > 0).all()
    assert pad_to_patch(images[:, :, :64], 14, 'multiple').shape == (2, 3, 70, 70)
    assert any('no final norm' in note for note in Results.read(tmp_path).notes)


def test_images_of_512_and_crops_of_518():
    """NVlabs/RADIO: Resize (2048, 512) in its config, 518 in its preprocessor."""

    def resized(cfg):
        pipelines = [x.dataset.pipeline for x in (cfg.train_dataloader, cfg.val_dataloader)]
        steps = [step for pipeline in pipelines for step in pipeline]
        return [tuple(step['scale']) for step in steps if 'Resize' in str(step['type'])]

    class Fourteen:
        name, depth, patch_size, has_final_norm = 'fourteen', 12, 14, False

    cfg = data_config('scenes', get_protocol('radio'), 14)
    assert resized(cfg) == [(2048, 512)] * 2
    assert tuple(cfg.crop_size) == (518, 518)
    half = resolve_protocol('radio', Fourteen(), short=False, overrides={'crop': 259})
    cfg = data_config('scenes', half, 14)
    assert resized(cfg) == [(1024, 256)] * 2
    assert tuple(cfg.crop_size) == (266, 266)


def test_a_probe_that_diverges_does_not_take_the_others_along(
    here, tmp_path, no_report, monkeypatch
):
    whole = ProbeTrainer.train_step

    def spoiled(self, *args):
        if self.step == 2:
            self.bank.probes[0].bias.data[0] = math.nan
        whole(self, *args)

    monkeypatch.setattr(ProbeTrainer, 'train_step', spoiled)
    assert run(*here, tmp_path, '--lr', '1e-2,1e-3')[0] == 0
    spoilt, well = Results.read(tmp_path).rows
    assert spoilt['score'] is None
    assert spoilt['stopped_at'] == 5
    assert well['score'] > 0


def test_scores_on_the_way_change_nothing(here, wide, tmp_path, no_report):
    words = ('--layers', '1', '--norms', 'bn', '--lr', '1e-2', '--dropout', '0.2')
    run(*here, tmp_path, *words, '--val-every', '2')
    [row] = Results.read(tmp_path).rows
    together = Results.read(wide[0])
    assert row in together.rows
    steps, scores = zip(*Results.read(tmp_path).curves[row['name']]['score'], strict=True)
    assert steps == (2, 4, 6)
    assert scores[-1] == row['score']
    assert together.curves[row['name']]['score'] == []


def test_a_window_is_predicted_as_the_image_is(wide):
    """One window over the whole image, and the image whole: the same labels."""
    _, job = wide
    image = next(iter(job.data.validation([1])))
    whole = list(predict(job.bank.probes[:2], job.bank, job.encoder, image, job.protocol))
    side = max(image.pixels.shape[1:])
    slide = type(job.protocol)(**{**vars(job.protocol), 'test': 'slide', 'crop': side})
    windows = list(predict(job.bank.probes[:2], job.bank, job.encoder, image, slide))
    assert whole[0].shape == image.label.shape
    assert all(torch.equal(a, b) for a, b in zip(whole, windows, strict=True))


def test_a_broken_image_is_named(here, tmp_path, no_report):
    job = SegmentRun(segment_args(*here, tmp_path / 'run'))
    broken = tmp_path / 'scenes'  # the set's own folder, which is left as it is
    shutil.copytree(job.data.root, broken)
    victims = sorted(broken.rglob('images/training/*'))
    assert len(victims) == job.data.num_train
    victims[0].write_bytes(b'no image')
    job = SegmentRun(segment_args(here[0], broken, tmp_path / 'run', '--iters', '9'))
    with pytest.raises(ValueError, match=rf'{victims[0].name} cannot be used .*mend or remove it'):
        job.run()
    for victim in victims:
        victim.write_bytes(b'no image')
    with pytest.raises(ValueError, match='images in a row cannot be used'):
        SegmentRun(segment_args(here[0], broken, tmp_path / 'run')).run()


def test_a_state_that_cannot_be_written_ends_in_one_line(here, tmp_path, no_report):
    job = SegmentRun(segment_args(*here, tmp_path / 'run', '--save-every', '2'))
    (tmp_path / 'run' / '.iter_2.part').write_text('a file where a folder has to be')
    with pytest.raises(Failure, match=r'iter_2 could not be saved'):
        job.run()


# -- grids ---------------------------------------------------------------------------------------


def test_layers_as_typed(wide):
    encoder = wide[1].encoder  # 4 blocks
    assert parse_layers('all', encoder) == [(0,), (1,), (2,), (3,)]
    assert parse_layers('even:2,0', encoder) == [(1,), (3,), (0,)]
    assert parse_layers('last:2', encoder) == [(2,), (3,)]
    assert parse_layers('-1,3,1+-1', encoder) == [(3,), (1, 3)]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('4', 'layer 4 is not one of the 4 blocks'),
        ('two', '--layers two: give numbers'),
        ('even:5', '--layers even:5: give numbers .* up to 4'),
        ('1+1', 'one block is in it twice'),
        ('', '--layers : give numbers'),
    ],
)
def test_layers_that_are_not(wide, text, message):
    with pytest.raises(ValueError, match=message):
        parse_layers(text, wide[1].encoder)


def test_a_grid_is_all_combinations(wide):
    encoder = wide[1].encoder
    protocol = resolve_protocol('dinov3', encoder, short=True, overrides={})
    assert (protocol.dropout, protocol.weight_decay, protocol.batch) == (0.1, 1e-3, 8)
    grid = make_grid(encoder, protocol, layers='all', norms='bn,none', lr=[1e-3], seeds=[0, 1])
    assert len(grid.specs) == len({spec.name for spec in grid.specs}) == 16
    assert not protocol.final_norm
    assert any('has no final norm' in note for note in grid.notes)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--iters', '0'), '--iters 0 is not a whole number of at least 1'),
        (('--dropout', '1'), '--dropout 1 is not a share'),
        (('--norms', 'gn'), '--norms gn: there are bn, ln, none'),
        (('--lr', 'fast'), '--lr fast: give numbers of at least 0'),
        (('--seeds', '-1'), '--seeds -1: give whole numbers'),
        (('--final-norm',), 'has no final norm; leave it out'),
        (('--val-every', '0'), '--val-every 0 is not at least 1'),
        (('--data-seed', '-1'), '--data-seed -1 is below 0'),
        (('--workers', '-1'), '--workers -1 is below 0'),
        (('--crop', '300000'), r'--crop 300006: 2 images of .* GiB or more'),
        (('--cfg-options', 'model.neck=1'), 'keys begin with train_dataloader or'),
        (('--data', 'ade21k'), 'Did you mean ade20k'),
        (('--device', 'gpu'), '--device gpu'),
    ],
)
def test_mistakes_answer_in_one_line(here, tmp_path, words, message):
    with pytest.raises(ValueError, match=message) as error:
        SegmentRun(segment_args(*here, tmp_path / 'new', *words))
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'new').exists()


def test_nothing_to_go_on_with(here, tmp_path):
    with pytest.raises(FileNotFoundError, match='no complete checkpoint'):
        SegmentRun(segment_args(*here, tmp_path, '--resume', tmp_path))


def test_numbers_as_typed():
    assert parse_numbers('--lr', '1e-3,0.01,1e-3', float) == [1e-3, 0.01]
    assert parse_numbers('--lr', None, float) is None
    with pytest.raises(ValueError, match='--lr inf'):
        parse_numbers('--lr', 'inf', float)


def test_the_published_tap_of_6b_is_the_45th_block(wide):
    class Large:
        name, depth, patch_size, has_final_norm = 'large', 48, 14, False

    protocol = resolve_protocol('internvit', Large(), short=False, overrides={})
    grid = make_grid(Large(), protocol)
    assert grid.specs[0].layers == (44,)
    assert len(grid.notes) == 2  # nothing is other than published
    Large.patch_size = 16
    assert resolve_protocol('internvit', Large(), short=False, overrides={}).crop == 512


def test_figures_of_others():
    names = {row['name']: row['score'] for row in published_rows('ade20k')}
    assert names['InternViT-6b-224px'] == 47.2
    assert names['DINOv3-7B'] == 55.9
    assert {row['score'] for row in published_rows('coco_stuff164k')} == {
        42.8,
        38.5,
        36.1,
        36.3,
        35.6,
    }
    assert published_rows('scenes') == []
