"""The structure holds: imports point down, options have one door, files stay small."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.kept_files import kept_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmdet_seg'
# A package imports from those of a lower rank, never from its own rank or above.
RANK = {
    'ops': 0,
    'compat': 1,
    'backbones': 2,
    'necks': 3,
    'heads': 4,
    'segmentors': 5,
    'detectors': 5,
    'datasets': 5,
    'engine': 6,
    'probes': 7,
    'tools': 8,
}
# Modules beside the packages that anyone may import; they themselves import nothing of ours but
# the stand-ins.
COMMON = {
    'registry',
    'version',
    'command_line',
    'config_path',
    'cfg_options',
    'mmdet_door',
    'compat',
}
# What mmdet_seg[...] installs, and the one place that may import it.
OPTIONAL = {
    'flash_attn': 'mmdet_seg/ops/attention.py',
    'timm': 'mmdet_seg/backbones/peer_libraries.py',
    'transformers': 'mmdet_seg/backbones/peer_libraries.py',
    'torchao': 'mmdet_seg/backbones/quantization.py',
    'mmdet': 'mmdet_seg/mmdet_door.py',
    'huggingface_hub': 'mmdet_seg/backbones/hub.py',
    'onnx': 'mmdet_seg/engine/onnx_export.py',
    'onnxruntime': 'mmdet_seg/engine/onnx_export.py',
    'onnxscript': 'mmdet_seg/engine/onnx_export.py',
    'deepspeed': 'mmdet_seg/engine/strategies/zero.py',
    'faiss': 'mmdet_seg/probes/faiss_index.py',
    'peft': 'mmdet_seg/backbones/lora.py',
    'sklearn': 'mmdet_seg/probes/logistic_regression.py',
    'triton': 'mmdet_seg/ops/ms_deform_attn_triton.py',
}


def sources() -> list[Path]:
    return [*PACKAGE.rglob('*.py'), *(ROOT / 'tools').glob('*.py')]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f'{node.module}.{a.name}' for a in node.names}
    return names


def part(path: Path) -> str:
    relative = path.relative_to(ROOT).parts
    return 'tools' if relative[0] == 'tools' else relative[1].removesuffix('.py')


def test_imports_point_down():
    wrong = []
    for path in sources():
        here = part(path)
        if here in ('configs', '__init__'):
            continue
        for name in imported(path):
            if not name.startswith('mmdet_seg.'):
                continue
            there = name.split('.')[1]
            allowed = there in COMMON if here in COMMON - {'compat'} else there in COMMON | {here}
            if not allowed and RANK.get(there, 99) >= RANK.get(here, -1):
                wrong.append(f'{path.relative_to(ROOT)} imports {name}')
    assert not wrong


def test_nothing_imports_tools_or_tests():
    for path in sources():
        assert not any(re.match(r'(mmdet_seg\.)?(tools|tests)\b', n) for n in imported(path)), path


def test_every_package_has_a_rank():
    assert {p.name for p in PACKAGE.iterdir() if (p / '__init__.py').exists()} <= RANK.keys()


def test_an_optional_dependency_has_one_door():
    users = defaultdict(set)
    for path in sources():
        if part(path) == 'configs':
            continue
        for name in imported(path):
            users[name.split('.')[0]].add(path.relative_to(ROOT).as_posix())
    for name, door in OPTIONAL.items():
        assert users[name] <= {door}, name


@pytest.mark.parametrize('name', ['torch', 'mmseg', 'mmdet', 'mmcv', 'torchvision'])
def test_importing_the_package_is_cheap(name):
    code = f'import sys, mmdet_seg; sys.exit({name!r} in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_files_are_small_and_named_for_what_they_hold():
    for path in sources():
        assert path.name not in ('utils.py', 'common.py', 'helpers.py', 'misc.py')
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f'{path.relative_to(ROOT)} has {lines} lines'


def test_nothing_is_compiled():
    """No build step: no extension, no source of one, nobody calls a compiler."""
    suffixes = {Path(name).suffix for name in kept_files()}
    assert '.py' in suffixes
    assert not suffixes & {'.c', '.cc', '.cpp', '.cu', '.pyx', '.so', '.pyd'}
    text = (ROOT / 'setup.py').read_text()
    assert 'ext_modules' not in text
    for path in sources():
        assert not re.search(r'cpp_extension|load_inline|build_ext', path.read_text()), path
