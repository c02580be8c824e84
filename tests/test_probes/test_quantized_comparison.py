"""The change in score is printed and kept, or one line says why it cannot be."""

import argparse

import pytest

from mmdet_seg.probes.quantized_comparison import SUFFIX, compare
from mmdet_seg.probes.results import Results
from tests.test_probes.result_samples import sample


def arguments(**more):
    plain = dict(job='segment', quantize='int8', compare_quantized=True, out=None, resume=None)
    return argparse.Namespace(**(plain | more))


def test_the_change_is_printed_and_kept(tmp_path, capsys):
    asked = []

    def job(args):
        asked.append(args.quantize)
        results = sample(shift=-0.25 if args.quantize else 0.0)
        results.encoder['quantization'] = args.quantize
        results.pictures = []
        results.write(args.out)

    assert compare(job, arguments(out=str(tmp_path / 'run'))) is None
    assert asked == [None, 'int8']
    said = capsys.readouterr().out
    assert '| layer 2, lr 0.01 | 51.00 | 50.75 | -0.25 |' in said
    assert '5 scores change by -0.25 on average' in said  # the sixth probe has failed
    kept = Results.read(tmp_path / 'run')
    assert kept.rows[0]['score_unquantized'] - kept.rows[0]['score'] == pytest.approx(0.25)
    assert any('change by -0.25' in x for x in kept.notes)
    assert (tmp_path / 'run' / 'report.html').is_file()
    assert Results.read(tmp_path / f'run{SUFFIX}').encoder['quantization'] is None


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(ValueError, match='with --quantize int8'):
        compare(lambda _a: None, arguments(quantize=None))
    with pytest.raises(ValueError, match='each of them by itself'):
        compare(lambda _a: None, arguments(resume=''))
    assert compare(lambda _a: 2, arguments(out=str(tmp_path))) == 2
