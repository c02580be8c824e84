"""Where the stand-ins enter, and that they stay out of the way of the real things."""

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import mmcv
import mmcv.utils.ext_loader
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import CheckpointLoader
from mmengine.utils import get_installed_path, is_installed
from mmengine.utils.dl_utils.misc import mmcv_full_available

from mmdet_seg import compat

compat.install()

ROOT = Path(compat.__file__).parents[2]


def run_python(code: str, *folders: Path) -> str:
    """What a fresh interpreter prints, with ``folders`` first on its path."""
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compiled_mmcv_is_installed() -> bool:
    finder = importlib.util.find_spec('mmcv._ext')
    return finder is not None and not finder.origin.startswith('mmdet_seg')


def test_install_is_cheap_and_imports_nothing_heavy():
    # The parent package is left out: it imports mmengine's registry.
    elapsed, heavy = run_python(
        f"""
        import sys, time, types
        package = types.ModuleType('mmdet_seg')
        package.__path__ = [{str(ROOT / 'mmdet_seg')!r}]
        sys.modules['mmdet_seg'] = package
        import mmdet_seg.compat
        start = time.perf_counter()
        mmdet_seg.compat.install()
        print(time.perf_counter() - start)
        print({{'torch', 'numpy', 'mmcv', 'mmengine'}} & set(sys.modules))
        """
    ).splitlines()
    assert float(elapsed) < 0.005
    assert heavy == 'set()'


def test_installing_twice_changes_nothing():
    before = list(sys.meta_path)
    compat.install()
    assert sys.meta_path == before


@pytest.mark.skipif(compiled_mmcv_is_installed(), reason='a compiled mmcv is installed')
def test_all_ways_to_look_for_the_operators_agree():
    spec = importlib.util.find_spec('mmcv._ext')
    assert spec.origin == 'mmdet_seg.compat.mmcv_ext'
    module = importlib.import_module('mmcv._ext')
    assert module is mmcv.utils.ext_loader.load_ext('_ext', ['nms', 'some_future_operator'])
    assert module.__name__ == 'mmcv._ext'
    assert mmcv.utils.ext_loader.check_ops_exist()
    assert mmcv_full_available()
    if hasattr(pkgutil, 'find_loader'):  # until Python 3.13
        assert pkgutil.find_loader('mmcv._ext') is not None
    assert importlib.util.find_spec('mmcv._something_else') is None
    assert 'torchvision' in module.get_compiler_version()


COMPILED = """
def nms(*args, **kwargs):
    return 'compiled'
"""


def test_a_compiled_mmcv_is_used_untouched(tmp_path):
    # Another distribution under mmcv's name, as a wheel with operators or the OneDL fork brings it.
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '_ext.py').write_text(COMPILED)
    found = run_python(
        """
        import sys
        from mmdet_seg import compat
        compat.install()

        def asked(name, path=None, target=None):
            assert not name.startswith('mmcv'), name
        compat._ABSENT.find_spec = asked
        import importlib.util, mmcv._ext
        assert importlib.util.find_spec('mmcv._ext').origin == mmcv._ext.__file__
        print(mmcv._ext.nms(), mmcv._ext.__file__, 'mmdet_seg.compat.mmcv_ext' in sys.modules)
        """,
        tmp_path,
    )
    assert found == f'compiled {package / "_ext.py"} False'


def test_operators_compiled_into_the_installed_mmcv_are_used(tmp_path):
    (tmp_path / '_ext.py').write_text(COMPILED)
    found = run_python(
        f"""
        from mmdet_seg import compat
        compat.install()
        import mmcv.utils.ext_loader
        mmcv.__path__.append({str(tmp_path)!r})
        print(mmcv.utils.ext_loader.load_ext('_ext', ['nms']).nms())
        """
    )
    assert found == 'compiled'


def test_checkpoint_module_is_patched_when_it_is_imported():
    patched = run_python(
        """
        from mmdet_seg import compat
        compat.install()
        import mmengine.runner.checkpoint as checkpoint
        assert checkpoint.__spec__.loader.get_source(checkpoint.__name__).startswith('#')
        print(checkpoint.torch.load.__module__, checkpoint.load_url.__module__)
        """
    )
    assert patched == 'mmdet_seg.compat.torch_load mmdet_seg.compat.torch_load'


def test_checkpoint_module_is_patched_when_it_came_first(monkeypatch):
    early = types.ModuleType('mmengine.runner.checkpoint')
    early.torch, early.CheckpointLoader = torch, CheckpointLoader
    monkeypatch.setitem(sys.modules, early.__name__, early)
    compat.install()
    assert early.torch.load.__module__ == 'mmdet_seg.compat.torch_load'
    assert CheckpointLoader._schemes[''].__module__ == 'mmdet_seg.compat.safetensors_load'


def test_mmengine_finds_installed_packages():
    assert is_installed('torch')
    assert is_installed('mmsegmentation')
    assert is_installed('mmseg')  # a module, not a distribution
    assert not is_installed('no-such-package')
    modules = {'mmdet': 'mmdet', 'mmseg': 'mmseg', 'mmsegmentation': 'mmseg'}
    for name, module in modules.items():
        origin = importlib.util.find_spec(module).origin
        assert Path(get_installed_path(name)) == Path(origin).parent
    with pytest.raises(Exception, match='no-such-package') as error:
        get_installed_path('no-such-package')
    assert type(error.value).__name__ == 'DistributionNotFound'


def test_configs_of_other_packages(tmp_path):
    name = 'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'
    inherited = tmp_path / 'config.py'
    inherited.write_text(f"_base_ = '{name}'\nmodel = dict(decode_head=dict(num_classes=7))\n")
    config = Config.fromfile(inherited)
    assert config.model.type == 'EncoderDecoder'
    assert config.model.decode_head.num_classes == 7
    assert get_config(name).model.decode_head.num_classes == 150


def test_a_real_pkg_resources_is_used(tmp_path):
    (tmp_path / 'pkg_resources.py').write_text('origin = "real"\n')
    found = run_python(
        """
        from mmdet_seg import compat
        compat.install()
        import pkg_resources
        print(pkg_resources.origin)
        """,
        tmp_path,
    )
    assert found == 'real'
