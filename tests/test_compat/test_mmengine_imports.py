"""Commands do not pay for large packages that they do not use."""

import subprocess
import sys

import pytest


def test_mmengine_leaves_deepspeed_alone():
    code = (
        'import sys, mmdet_seg, mmengine.runner, mmengine._strategy.deepspeed as module\n'
        'assert module.deepspeed is None and module.__file__.endswith("deepspeed.py")\n'
        'assert "deepspeed" not in sys.modules'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_mmengine_leaves_transformers_alone():
    code = (
        'import sys, mmdet_seg, mmengine.runner, mmdet_seg.backbones\n'
        'from mmengine.registry import OPTIMIZERS\n'
        'assert OPTIMIZERS.get("AdamW") and OPTIMIZERS.get("TorchAdafactor")\n'
        'assert not {"transformers", "peft", "torchao"} & sys.modules.keys()'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_who_imports_torchao_reads_no_warning():
    pytest.importorskip('torchao')
    code = 'import mmdet_seg, torchao.quantization'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
