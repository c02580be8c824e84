"""The wheel brings everything: configs, tools, data; a run works where there is no checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.kept_files import kept_files
from tests.small_runs import ROOT, run_options

COMPILERS = ('cc', 'c++', 'gcc', 'g++', 'clang', 'clang++', 'nvcc', 'hipcc', 'ninja', 'cmake', 'ld')


@pytest.fixture(scope='module')
def no_compiler(tmp_path_factory) -> tuple[dict[str, str], Path]:
    """An environment in which every compiler fails and is recorded, and the file of the records."""
    folder = tmp_path_factory.mktemp('compilers')
    called = folder / 'called'
    for name in COMPILERS:
        # mmengine asks for the version of a compiler, to print it.
        refuse = f'case "$*" in *--version*) ;; *) echo "$0 $*" >> {called};; esac; exit 1'
        (folder / name).write_text(f'#!/bin/sh\n{refuse}\n')
        (folder / name).chmod(0o755)
    chosen = {name: str(folder / tool) for name, tool in
              (('CC', 'cc'), ('CXX', 'c++'), ('CUDACXX', 'nvcc'))}  # fmt: skip
    path = f'{folder}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, **chosen, 'PATH': path, 'OMP_NUM_THREADS': '1'}, called


@pytest.fixture(scope='module')
def site(tmp_path_factory, no_compiler) -> Path:
    """The built wheel, installed into an empty folder."""
    folder = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    source = folder / 'source'
    tracked = kept_files('mmdet_seg', 'tools', 'setup.py', 'pyproject.toml', 'README.md')
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(folder), str(source)],
        check=True,
        env=no_compiler[0],
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


def test_it_trains_without_a_checkout_or_a_compiler(site, tmp_path, no_compiler):
    environment = {**no_compiler[0], 'PYTHONPATH': str(site)}
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
    assert not no_compiler[1].exists(), no_compiler[1].read_text()


def test_boxes_masks_and_deformable_attention_need_no_compiler(tmp_path, no_compiler):
    """A detector with every operator that mmcv compiles elsewhere: proposals, regions, adapter."""
    options = [
        *(f'{split}_dataloader.{key}' for split in ('train', 'val', 'test') for key in (
            'num_workers=0', 'persistent_workers=False', 'dataset.num_train=4',
            'dataset.num_val=1', f'dataset.data_root={tmp_path}/scenes')),
        'train_dataloader.batch_size=1', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1',
        'train_dataloader.dataset.filter_cfg=None',
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, 'tools/train.py', 'mask_rcnn_adapter_internvit', '--arch', 'tiny',
         '--work-dir', tmp_path / 'run', '--cfg-options', *options],
        cwd=ROOT, env=no_compiler[0], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not no_compiler[1].exists(), no_compiler[1].read_text()


def test_no_file_of_the_project_compiles():
    """Nothing here builds an extension, inline, at install time or on first use."""
    words = re.compile(
        r'cpp_extension|ext_modules|load_inline|Extension\(|BuildExtension|CDLL|cffi|cython|numba'
        r'|\b(gcc|nvcc|ninja)\b'
    )
    found = {}
    for path in [ROOT / 'setup.py', *ROOT.glob('mmdet_seg/**/*.py'), *ROOT.glob('tools/*')]:
        if path.is_file() and (hits := words.findall(path.read_text())):
            found[path.relative_to(ROOT).as_posix()] = hits
    assert not found
    suffixes = ('.c', '.cc', '.cpp', '.cu', '.cuh', '.h', '.hpp', '.pyx', '.so')
    assert not [p for p in ROOT.glob('mmdet_seg/**/*') if p.suffix in suffixes]
