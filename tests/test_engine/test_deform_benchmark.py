"""The comparison with mmcv's fallback compares the same thing and counts its memory."""

import torch

from mmdet_seg.engine import deform_benchmark
from mmdet_seg.engine.deform_benchmark import SETTINGS, Setting

SMALL = Setting('small', ((12, 16), (6, 8)), ((12, 16), (6, 8), (3, 4)), heads=4, dim=8)


def test_both_compute_the_same_and_ours_takes_less():
    (row,) = deform_benchmark.run([SMALL], rounds=1, progress=lambda _: None)
    assert row.difference < 1e-5
    # Result and gradients of float32 inputs, the least that a step takes.
    tensors = deform_benchmark.inputs(SMALL)
    least = 4 * sum(tensor.numel() for tensor in tensors) + 4 * 240 * 4 * 8
    assert least < row.our_bytes < row.stock_bytes
    assert f'{row.ratio:.2f} x' in deform_benchmark.table([row]).splitlines()[-1]


def test_sizes_are_those_of_the_models():
    injector, extractor, pixel_decoder = map(deform_benchmark.inputs, SETTINGS)
    assert injector[1].shape == (1, 1024, 25, 3, 4, 2)
    assert extractor[1].shape == (1, 5376, 25, 1, 4, 2)
    assert pixel_decoder[0].shape == (1, 16464, 8, 32)
    assert pixel_decoder[1].shape == (1, 16464, 8, 3, 4, 2)


def test_peak_counts_what_is_there_at_once():
    def action() -> None:
        for _ in range(3):
            torch.zeros(1000)
        kept = torch.zeros(500)
        torch.zeros(2000)
        del kept

    assert deform_benchmark.peak_bytes(action) == 4 * 2500
