"""Runs side by side: nothing is mixed that does not belong together."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from mmdet_seg.probes.results_plot import _lines
from mmdet_seg.probes.results_table import as_csv, compare, markdown, read_runs
from tests.small_runs import tool
from tests.test_probes.result_samples import changed, sample


@pytest.fixture
def runs(tmp_path):
    """Two encoders of different depth, and one of them on other data."""
    small, large = sample(), sample('6b | x', 48, shift=-2)
    large.rows = large.rows[:3]
    large.curves = {}
    large.encoder['identity'] = 'cd' * 8
    other = changed(large, data={**large.data, 'name': 'mine'}, published=[], notes=[])
    paths = []
    for name, results in (('a', small), ('b', large), ('c', other)):
        results.write(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


def test_other_data_and_metrics_get_their_own_table(runs, tmp_path):
    tables = compare(read_runs(runs))
    assert [t.title for t in tables] == [
        'scenes, segment: mIoU (%), 3 images',
        'mine, segment: mIoU (%), 3 images',
    ]
    text = markdown(tables)
    first, second = text.split('**mine')
    assert first.count('\n| ') == 2 + 2 + 2  # head and rule, two runs, two published figures
    assert second.count('\n| ') == 2 + 1
    scores = [line.split(' | ')[2] for line in first.splitlines() if line.startswith('| ')][2:]
    assert scores == ['60.10', '48.10', '47.20', '40.00']  # best first, published among them
    assert '| 6b / x |' in first  # no column of its own
    fewer = sample()
    fewer.data['num_val'] = 2
    fewer.rows[0]['metric'] = 'top1'
    fewer.write(tmp_path / 'd')
    assert len(compare(read_runs([*runs, str(tmp_path / 'd')]))) == 4


def test_what_is_not_equal_is_said(runs, tmp_path):
    (table,) = compare(read_runs(runs[:2]))
    assert not [n for n in table.notes if n.startswith('Not')]
    other = sample()
    other.encoder['identity'] = 'ef' * 8
    other.data['num_train'] = 4
    other.protocol = 'dinov2'
    other.write(tmp_path / 'd')
    (table,) = compare(read_runs([runs[0], str(tmp_path / 'd')]))
    assert table.notes[-3:] == [
        'Not the same number of training images: 4, 8.',
        'Not the same protocol: internvit, dinov2.',
        'random:small stands for 2 different sets of weights.',
    ]
    assert table.notes[0].startswith('random:small: Features of 4 fixed views')
    assert table.notes[-3] in markdown([table])


def test_csv_holds_every_row(runs):
    tables = compare(read_runs(runs))
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert len(rows) == 6 + 3 + 3
    first = rows[0]
    assert (first['encoder'], float(first['score']), first['layers']) == (
        'random:small',
        60.1,
        '3',
    )
    assert (first['lr'], first['score aAcc'], first['depth_fraction']) == ('0.001', '80.1', '1.0')
    assert [r['score'] for r in rows].count('') == 1  # the one that failed


def test_the_plot_compares_depths(runs, tmp_path):
    """Layer 2 of 4 blocks and layer 2 of 48 are not at one place; a point is a layer's best."""
    table = compare(read_runs(runs))[0]
    (small, points), (large, deep) = _lines(table)
    assert (small.encoder, large.encoder) == ('random:small', '6b | x')
    assert points == [(0.25, 31.0), (0.75, 51.0), (1.0, pytest.approx(60.1))]
    assert [depth for depth, _ in deep] == [pytest.approx(1 / 48, abs=1e-4), 0.0625]
    files = [tmp_path / 'out' / f'table{suffix}' for suffix in ('.png', '.csv', '.md')]
    done = tool('probe', 'table', *runs, '--out', *files)
    assert done.returncode == 0, done.stderr
    assert files[2].read_text() == done.stdout
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape[0] > picture.shape[1]  # two parts
    assert files[1].read_text().count('\n') == 13
    everything = tool('probe', 'table', runs[0], '--all').stdout
    assert everything.count('| failed |') == 1


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['lost'], 'lost: no such file; give the folder'),
        (['a', '--out', 'table.xls'], '--out table.xls: the name ends with .md, .csv, .png'),
        (['empty'], 'empty: no rows yet'),
        (['RUN', '--out', 'full.csv'], 'full.csv: No space left on device. Make room, or write'),
    ],
)
def test_mistakes_have_one_line(runs, tmp_path, words, says):
    changed(sample(), rows=[], curves={}).write(tmp_path / 'empty')
    (tmp_path / 'full.csv').symlink_to('/dev/full')
    words = [runs[0] if word == 'RUN' else word for word in words]
    done = tool('probe', 'table', *words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count('\n') == 1
