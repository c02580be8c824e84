"""Commands do not pay for a DeepSpeed that they do not use."""

import subprocess
import sys


def test_mmengine_leaves_deepspeed_alone():
    code = (
        'import sys, mmdet_seg, mmengine.runner, mmengine._strategy.deepspeed as module\n'
        'assert module.deepspeed is None and module.__file__.endswith("deepspeed.py")\n'
        'assert "deepspeed" not in sys.modules'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
