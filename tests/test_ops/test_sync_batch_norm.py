"""The synchronised batch norm of two processes against PyTorch's batch norm of the whole batch."""

import pytest

from tests.small_runs import run_job

BASE = dict(dtype='float32', shares=[2, 2], rest=[5, 7], mean=100.0, affine=True, momentum=0.1)
CASES = {
    'float32': {},
    'float64': dict(dtype='float64'),
    'bfloat16': dict(dtype='bfloat16', mean=1.0),
    'shares of several sizes': dict(shares=[3, 1]),
    'a process without images': dict(shares=[4, 0]),
    'vectors': dict(rest=[], shares=[5, 8]),
    'without weights': dict(affine=False),
    'a plain average of statistics': dict(momentum=None),
}
# Differences as a part of the largest value; half a unit in the last place of what is returned.
NEAR = {'float64': 1e-12, 'float32': 2e-5, 'bfloat16': 2**-8}


@pytest.fixture(scope='module')
def results(tmp_path_factory) -> list[dict]:
    """Of both processes, case by case."""
    jobs = {name: {**BASE, **case} for name, case in CASES.items()}
    path = tmp_path_factory.mktemp('sync') / 'job.json'
    return run_job('tests.sync_norm_process', jobs, path, 2)


@pytest.mark.parametrize('name', CASES)
def test_two_processes_compute_what_one_does(results, name):
    dtype = {**BASE, **CASES[name]}['dtype']
    for result in results:
        found = dict(result[name])
        assert found.pop('same type')
        kept, given = found.pop('kept'), found.pop('input bytes')
        assert kept <= given + 200  # the input itself, and vectors of its channels
        for what, far in found.items():
            rounded = what in ('out', 'input')
            assert far <= NEAR[dtype if rounded or dtype == 'float64' else 'float32'], what
