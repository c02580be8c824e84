"""Processes that load: they end with the run, and what goes wrong in them is one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mmdet_seg.command_line import Failure
from mmdet_seg.datasets.loader_processes import leave_signals
from mmdet_seg.probes.loading import loaded

ENDING = """
from torch.utils.data import DataLoader
from mmdet_seg.datasets.loader_processes import leave_signals
from mmdet_seg.probes import loading

def main():
    loader = DataLoader(range(100), num_workers=1, worker_init_fn=leave_signals)
    try:
        for _ in loading.loaded(loader):
            raise ValueError('enough')
    except ValueError as error:
        kept = error  # a cycle: the loader lives as long as the process
        raise

main()
"""


def test_they_do_not_outlive_the_run():
    """Python ends its children with SIGTERM and waits for them."""
    done = subprocess.run(
        [sys.executable, '-c', ENDING],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 'ValueError: enough' in done.stderr


class Failing(Dataset):
    def __init__(self, what):
        self.what = what

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if self.what == 'image':
            raise ValueError('a.png cannot be read; mend it.')
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ('what', 'kind', 'line'),
    [
        ('image', ValueError, r'^a\.png cannot be read; mend it\.$'),
        ('gone', Failure, '^A process that loads data died'),
    ],
)
def test_what_goes_wrong_is_one_line(what, kind, line):
    loader = DataLoader(Failing(what), num_workers=1, worker_init_fn=leave_signals)
    with pytest.raises(kind, match=line):
        list(loaded(loader))
