"""The benchmark of the probing lab runs; what it measures is the owner's to report."""

from mmdet_seg.probes import probe_benchmark
from mmdet_seg.probes.probe_benchmark import INT8, MANY, ONE, PLAIN, STORED, STORED_ONE


def test_all_ways_in_one_run():
    said = []
    rows = probe_benchmark.run(
        'tiny', crop=28, rounds=1, views=3, classes=4, quantize=True, progress=said.append
    )
    assert [row.name for row in rows] == [ONE, MANY, STORED_ONE, STORED, PLAIN, INT8]
    found = {row.name: row for row in rows}
    assert all(row.seconds > 0 for row in rows)
    assert found[MANY].beside == found[STORED_ONE].beside == ONE
    assert found[STORED].beside == MANY
    assert 0 < found[INT8].weight_bytes < found[PLAIN].weight_bytes
    assert 0 < found[INT8].difference < 0.1
    text = probe_benchmark.table(rows)
    assert len(text.splitlines()) == 8
    assert 'x the steps of 16 probes' in text
    assert 'x the time of one probe' in text
    assert any('round 1 of 1' in line for line in said)
