"""The loading benchmark measures what it says and leaves nothing behind."""

import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmdet_seg.backbones import ARCHS, InternViT
from mmdet_seg.backbones.checkpoint import open_checkpoint
from mmdet_seg.engine import load_benchmark
from mmdet_seg.engine.load_benchmark import OURS, STOCK, run, table, write_made_up

# 58 M parameters: large enough to show in a process that weighs 0.7 GB without them.
ARCH = replace(ARCHS['6b-224px'], embed_dim=768, num_heads=6, img_size=56, depth=8)


def test_both_ways_are_measured_and_the_files_go(tmp_path):
    steps = []
    rows = run(8, 8, crop=56, folder=tmp_path, arch=ARCH, progress=steps.append)
    assert [(row.method, row.depth, row.dtype) for row in rows] == [
        (OURS, 8, 'bfloat16'),
        (STOCK, 8, 'float32'),
    ]
    ours = rows[0]
    assert not any(row.note for row in rows)
    assert ours.load_seconds > 0
    assert ours.crop_seconds > 0
    assert ours.peak_gib >= ours.before_gib
    # The stock way holds the model in fp32 and the file's tensors: three times ours.
    grown = [row.peak_anonymous_gib - row.before_gib for row in rows]
    assert grown[1] - grown[0] > 1.5 * ours.file_gib
    assert len(steps) == 4
    assert not list(tmp_path.iterdir())
    lines = table(rows).splitlines()
    assert len(lines) == 3
    assert 'bfloat16' in lines[1]


def test_made_up_weights_are_the_published_shapes_and_run(tmp_path):
    arch = replace(ARCHS['tiny'], layer_scale_init=0.1)
    write_made_up(arch, tmp_path / 'hub', 'hub')
    found = open_checkpoint(tmp_path / 'hub')
    assert found.layout == 'hub'
    assert found.arch == arch
    assert set(found.dtypes.values()) == {torch.bfloat16}
    tokens = InternViT.from_pretrained(tmp_path / 'hub', dtype='fp32').forward_features(
        torch.randn(1, 3, 56, 56)
    )
    assert tokens.isfinite().all()
    assert 0.1 < tokens.std() < 10


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_files_go_when_a_run_ends_early(error, tmp_path, monkeypatch):
    def fail(*args):
        assert list(tmp_path.rglob('*.safetensors'))
        raise error

    monkeypatch.setattr(load_benchmark, '_measure_in_child', fail)
    with pytest.raises(error):
        run(1, 1, folder=tmp_path, arch=replace(ARCHS['tiny'], depth=1))
    assert not list(tmp_path.iterdir())


def test_a_child_that_fails_is_a_row(tmp_path):
    row = load_benchmark._measure_in_child(OURS, ARCHS['tiny'], tmp_path / 'nothing', 56)
    assert row.note == 'failed with status 1'
    assert math.isnan(row.load_seconds)
    assert row.note in table([row])


def test_too_little_room_is_refused(tmp_path, monkeypatch):
    free = {'disk': 10**15}
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free['disk']))
    with pytest.raises(ValueError, match='GiB of memory are free and depth=4800'):
        run(4800, 6, folder=tmp_path)
    free['disk'] = 10**9
    with pytest.raises(ValueError, match=r'has 0\.9 GiB free and depth=48 needs 11\.0'):
        run(48, 6, folder=tmp_path)
    with pytest.raises(ValueError, match='crop=500 is not a multiple of patch_size=14'):
        run(crop=500, folder=tmp_path)
    with pytest.raises(ValueError, match='is not a directory'):
        run(folder=tmp_path / 'none')
