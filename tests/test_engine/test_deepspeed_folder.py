"""DeepSpeed's own checkpoints, made by DeepSpeed in two processes, as whole weights."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmdet_seg.compat.safetensors_load import load_safetensors
from mmdet_seg.engine.deepspeed_folder import find_deepspeed, open_deepspeed
from mmdet_seg.engine.model_conversion import convert_model
from tests.small_runs import ROOT, launcher

CASES = [f'{stage}_{precision}' for stage in (1, 2, 3) for precision in ('fp32', 'bf16')]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('deepspeed') is None, reason='deepspeed is not installed'
)


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('deepspeed')
    done = subprocess.run(
        [*launcher(2), '-m', 'tests.deepspeed_process', out],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights(folder):
    return {e.key: e.read() for e in open_deepspeed(find_deepspeed(folder)).entries}


@pytest.mark.parametrize('case', CASES)
def test_equals_the_model_and_deepspeeds_own_script(made, case):
    ours = weights(made / case)
    held = load_file(made / case / 'held.safetensors')
    theirs = load_file(made / case / 'theirs.safetensors')
    assert ours.keys() == held.keys()
    for name, value in held.items():  # in bf16 the optimizer's float32 rounds to the model's
        assert torch.equal(ours[name].to(value.dtype), value), name
    for name, value in theirs.items():  # of ZeRO 1 it loses what is frozen
        assert torch.equal(ours[name].to(value.dtype), value), name
    assert ours['first.weight'].dtype == torch.float32
    assert ours['index'].dtype == torch.int64


def test_a_tag_or_the_folder_above(made):
    tag = made / '3_fp32' / 'global_step2'
    assert find_deepspeed(made / '3_fp32') == find_deepspeed(tag) == tag
    assert find_deepspeed(made) is None
    found = open_deepspeed(tag)
    assert (found.stage, found.processes) == (3, 2)


@pytest.mark.parametrize('case', ['2_fp32', '3_bf16'])
def test_becomes_one_file(made, case, tmp_path):
    report = convert_model(made / case, tmp_path / 'x.safetensors')
    assert f'DeepSpeed, ZeRO {case[0]}, 2 processes' in report.summary()
    ours = load_file(tmp_path / 'x.safetensors')
    for name, value in weights(made / case).items():
        assert torch.equal(ours[name], value)
    meta = load_safetensors(tmp_path / 'x.safetensors')['meta']
    assert meta['dataset_meta'] == {'classes': ['sky', 'grass'], 'palette': [[0, 0, 0], [1, 2, 3]]}


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_file_that_wants_to_run_code_is_refused(made, tmp_path):
    folder = tmp_path / 'tag'
    shutil.copytree(made / '2_fp32' / 'global_step2', folder)
    file = folder / 'zero_pp_rank_1_mp_rank_00_optim_states.pt'
    content = torch.load(file, weights_only=False)
    content['optimizer_state_dict']['loss_scaler'] = Hostile(tmp_path / 'proof')
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"rank_1.* asks for '\w+\.mkdir', which is not loaded"):
        open_deepspeed(folder)
    assert not (tmp_path / 'proof').exists()


def missing_process(folder):
    next(folder.glob('*rank_1_*optim*')).unlink()


def missing_weights(folder):
    for file in folder.glob('*optim*'):
        file.unlink()


def parallel(folder):
    file = next(folder.glob('*model_states.pt'))
    file.rename(folder / 'mp_rank_01_model_states.pt')


def cut(folder):
    file = next(folder.glob('*rank_0_*optim*'))
    file.write_bytes(file.read_bytes()[:1000])


def of_another(folder):
    """Weights of a model of another size."""
    for file in folder.glob('*optim*'):
        content = torch.load(file, weights_only=False)
        states = content['optimizer_state_dict']
        key = next(
            k for k in ('single_partition_of_fp32_groups', 'fp32_flat_groups') if k in states
        )
        states[key] = [x[:-3].clone() for x in states[key]]
        torch.save(content, file)


@pytest.mark.parametrize('case', ['2_fp32', '3_fp32'])
@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (missing_process, 'was written by 2 processes and has 1 '),
        (missing_weights, r'lacks its \*_optim_states.pt files'),
        (parallel, 'holds mp_rank_01_model_states.pt: a model in tensor or pipeline'),
        (cut, 'cut short, damaged'),
        (of_another, 'files that do not belong together'),
    ],
)
def test_broken_and_mixed_up_folders(made, case, damage, message, tmp_path):
    folder = tmp_path / 'tag'
    shutil.copytree(made / case / 'global_step2', folder)
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        convert_model(folder, tmp_path / 'x.pth')
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'x.pth').exists()


def test_a_part_is_no_model(made, tmp_path):
    part = made / '3_fp32/global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt'
    with pytest.raises(ValueError, match='is a part of a checkpoint of DeepSpeed; give its folder'):
        convert_model(part, tmp_path / 'x.pth')
    (tmp_path / 'latest').write_text('global_step9')
    with pytest.raises(ValueError, match="names 'global_step9', which is not a folder beside it"):
        convert_model(tmp_path, tmp_path / 'x.pth')
    whole = made / '2_fp32/global_step2/mp_rank_00_model_states.pt'
    convert_model(whole, tmp_path / 'x.safetensors')
    held = load_file(made / '2_fp32' / 'held.safetensors')
    assert load_file(tmp_path / 'x.safetensors').keys() == held.keys()
