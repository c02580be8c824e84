"""The change in score is printed and kept, or one line says why it cannot be."""

import argparse
from pathlib import Path

import pytest

from mmdet_seg.probes.quantized_comparison import SUFFIX, compared
from mmdet_seg.probes.results import Results
from tests.test_probes.result_samples import sample


def arguments(**more):
    plain = dict(quantize='int8', compare_quantized=None, out=None, resume=None)
    return argparse.Namespace(**(plain | more))


def test_the_change_is_printed_and_kept(tmp_path, capsys):
    asked = []

    def job(args):
        asked.append(args.quantize)
        results = sample(shift=-0.25 if args.quantize else 0.0)
        results.encoder['quantization'] = args.quantize
        results.pictures = []
        results.write(args.out)

    assert compared('segment', job, arguments(out=str(tmp_path / 'run'))) is None
    assert asked == ['int8', None]
    said = capsys.readouterr().out
    assert '| layer 2, lr 0.01 | 51.00 | 50.75 | -0.25 |' in said
    # The sixth probe has failed.
    assert 'scores change by -0.25 on average, -0.25 .. -0.25 (5)' in said
    kept = Results.read(tmp_path / 'run')
    assert kept.rows[0]['score_unquantized'] - kept.rows[0]['score'] == pytest.approx(0.25)
    assert any('change by -0.25' in x for x in kept.notes)
    assert (tmp_path / 'run' / 'report.html').is_file()
    assert Results.read(tmp_path / f'run{SUFFIX}').encoder['quantization'] is None


def test_nothing_is_compared_where_nobody_wants_it():
    asked = []

    def job(args):
        asked.append((args.quantize, args.out))

    compared('segment', job, arguments(compare_quantized=False))
    compared('segment', job, arguments(quantize=None))
    assert asked == [('int8', None), (None, None)]
    with pytest.raises(ValueError, match='with --quantize int8'):
        compared('segment', job, arguments(quantize=None, compare_quantized=True))


@pytest.mark.parametrize('ended', ['int8', None])
def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path, ended, monkeypatch):
    """In the first or in the second of the two runs; what is complete is not done again."""
    folder, asked = tmp_path / 'work_dirs' / 'probe_segment' / 'run', []
    monkeypatch.chdir(tmp_path)

    def job(args):
        asked.append((args.quantize, args.resume))
        out = Path(args.out)
        assert args.compared_in.resolve() == folder
        if args.quantize == ended and args.resume is None:
            out.mkdir(parents=True)
            (out / 'state').touch()
            return 130
        results = sample()
        results.encoder['quantization'] = args.quantize
        results.pictures = []
        results.write(out)
        return 0

    def go(**more):
        return compared('segment', job, arguments(**more), lambda out: (out / 'state').is_file())

    assert go(out=str(folder)) == 130
    assert go(resume='') is None
    plain = folder.with_name(f'run{SUFFIX}')
    place = Path('work_dirs/probe_segment') / (folder if ended else plain).name
    if ended:
        assert asked == [('int8', None), ('int8', str(place)), (None, None)]
    else:
        assert asked == [('int8', None), (None, None), (None, str(place))]
    assert '0.00' in (folder / 'report.html').read_text()
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match='--resume: no run in'):
        go(resume='')
