"""What mmengine's DeepSpeedStrategy stumbles over, in one process without a launcher."""

import pytest
import torch
from mmseg.registry import MODELS

from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.recipe import load_recipe
from tests.small_runs import run_options, tool


@pytest.mark.parametrize('strategy', ['zero3', *(
    pytest.param(name, marks=pytest.mark.slow) for name in ('ddp', 'zero2', 'fsdp')
)])  # fmt: skip
def test_starts_from_any_file_and_compiles(strategy, tmp_path):
    """No launcher and no MPI, a `.pth` of mmengine's as the start, blocks compiled."""
    torch.manual_seed(3)
    options = run_options(
        tmp_path / 'scenes', 4,
        **{'load_from': str(tmp_path / 'start.pth'), 'compile_blocks.backend': 'aot_eager',
           'optim_wrapper.optimizer.lr': 0.0, 'optim_wrapper.optimizer.weight_decay': 0.0},
    )  # fmt: skip
    narrow = {k: v for k, v in (x.split('=') for x in options[1:]) if k.endswith('.channels')}
    narrow = {k: int(v) for k, v in narrow.items()}
    cfg = load_recipe('upernet_internvit', arch='tiny', options=narrow)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'start.pth')
    done = tool(
        'train', 'upernet_internvit', '--arch', 'tiny', '--strategy', strategy, '--work-dir',
        tmp_path / 'run', *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if 'start anew' in line]
    # At a rate of 0 the weights are those of the start.
    found = dict(open_folder(tmp_path / 'run/iter_4').tensors('model'))
    expected = dict(model.named_parameters())
    assert expected.keys() <= found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
