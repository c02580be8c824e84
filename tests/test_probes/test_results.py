"""What a run leaves can be read again, and what cannot is refused in one line."""

import json
import math

import numpy as np
import pytest

from mmdet_seg.probes.results import Results
from tests.test_probes.result_samples import changed, sample


def test_what_is_written_is_read_again(tmp_path):
    results = sample()
    path = results.write(tmp_path / 'new' / 'run')
    again = Results.read(path)
    assert Results.read(path.parent) == again
    failed = again.rows.pop()
    assert failed['score'] is None  # NaN, which JSON has no word for
    assert math.isnan(results.rows.pop()['score'])
    assert again == results
    assert [p.name for p in path.parent.iterdir()] == ['results.json']  # nothing left aside


def test_arrays_and_paths_become_plain(tmp_path):
    results = sample()
    results.rows[0] |= {'score': np.float32(12.5), 'layers': (np.int64(1),), 'file': tmp_path}
    row = Results.read(results.write(tmp_path)).rows[0]
    assert (row['score'], row['layers'], row['file']) == (12.5, [1], str(tmp_path))


def test_best_leaves_failures_out():
    results = sample()
    assert results.rows[-1]['name'] == 'layer 3, lr 0.01'
    assert results.best()['name'] == 'layer 3, lr 0.001'
    with pytest.raises(ValueError, match='No row has a score'):
        changed(results, rows=[]).best()


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda c: c.pop('rows'), 'no rows or no task'),
        (lambda c: c.update(task='sing'), "task 'sing' is none of segment, classify, retrieve"),
        (lambda c: c.update(schema=99), 'schema 99, this version reads 1'),
        (lambda c: c['encoder'].pop('depth'), 'encoder: depth is None, not a int'),
        (lambda c: c.update(data=None), 'data is NoneType'),
        (lambda c: c['rows'][1].update(name=c['rows'][0]['name']), 'two rows have the name'),
        (lambda c: c['rows'][1].update(score='high'), r"rows\[1\]: score 'high' is not a figure"),
        (lambda c: c['rows'][1].update(score=4720.0), 'is not a figure in percent'),
        (lambda c: c['rows'][1].update(layers=[-1]), r'layers \[-1\] are not numbers from 0'),
        (lambda c: c['curves'].update(lost={}), "curves of 'lost', which is no row"),
        (lambda c: c['published'][0].pop('score'), 'a published row: score is None'),
        (lambda c: c['pictures'].append({'title': 'x'}), 'a picture: file is None'),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, change, says):
    content = json.loads(sample().write(tmp_path).read_text())
    change(content)
    (tmp_path / 'results.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says) as caught:
        Results.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='give the folder of a run'):
        Results.read(tmp_path)
    (tmp_path / 'results.json').write_text('{"task": "segm')
    with pytest.raises(ValueError, match='is not JSON'):
        Results.read(tmp_path)


def test_a_failed_write_keeps_what_was_there(tmp_path):
    before = sample().write(tmp_path).read_bytes()
    with pytest.raises(ValueError, match='two rows'):
        changed(sample(), rows=[sample().rows[0]] * 2, curves={}).write(tmp_path)
    assert (tmp_path / 'results.json').read_bytes() == before
