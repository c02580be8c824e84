"""The wheel brings everything: configs, tools, data; a run works where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.small_runs import ROOT, run_options


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The built wheel, installed into an empty folder."""
    folder = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    source = folder / 'source'
    tracked = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', 'mmdet_seg', 'tools', 'setup.py',
         'pyproject.toml', 'README.md'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(folder), str(source)],
        check=True,
    )
    (wheel,) = folder.glob('*.whl')
    assert wheel.name.endswith('-py3-none-any.whl')  # nothing compiled
    subprocess.run(
        [*pip, 'install', '--no-deps', '--target', str(folder / 'site'), str(wheel)], check=True
    )
    return folder / 'site'


def test_the_wheel_holds_configs_and_tools(site):
    for name in ('configs/upernet_internvit.py', 'configs/_base_/runtime.py', 'tools/train.py'):
        assert (site / 'mmdet_seg' / name).is_file()
    (wheel,) = site.parent.glob('*.whl')
    size = sum(i.compress_size for i in zipfile.ZipFile(wheel).infolist())
    assert size < 1 << 20


def test_it_trains_without_a_checkout(site, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    where = [sys.executable, '-c', 'import mmdet_seg; print(mmdet_seg.__file__)']
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(site / 'mmdet_seg/__init__.py')
    done = subprocess.run(
        [sys.executable, '-m', 'mmdet_seg.tools.train', 'configs/upernet_internvit.py',
         '--arch', 'tiny', *run_options(tmp_path / 'scenes', 4)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'mIoU: ' in done.stdout
    assert list(tmp_path.glob('work_dirs/upernet_internvit/*/summary.json'))
