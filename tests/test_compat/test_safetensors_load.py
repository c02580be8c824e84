"""mmengine's own loading of safetensors files."""

import json

import pytest
import torch
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from safetensors.torch import save_file
from torch import nn

from mmdet_seg.compat.safetensors_load import DATASET_META, patch


def test_load_from_takes_a_safetensors_file(tmp_path):
    model = nn.Linear(3, 2)
    path = tmp_path / 'x.safetensors'
    save_file(model.state_dict(), path, {DATASET_META: json.dumps({'classes': ['a', 'b']})})
    other = nn.Linear(3, 2)
    meta = load_checkpoint(other, str(path), strict=True)['meta']
    assert torch.equal(model.weight, other.weight)
    assert meta['dataset_meta'] == {'classes': ['a', 'b']}
    runner = Runner(nn.Sequential(nn.Linear(3, 2)), str(tmp_path), load_from=str(path))
    assert runner.load_checkpoint(str(path), strict=False)['meta'] == meta


def test_other_files_are_read_as_before(tmp_path):
    torch.save({'state_dict': {'a': torch.ones(2)}}, tmp_path / 'x.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
    assert torch.equal(found['state_dict']['a'], torch.ones(2))
    from mmengine.runner import checkpoint

    before = checkpoint.CheckpointLoader._schemes['']
    patch(checkpoint)
    assert checkpoint.CheckpointLoader._schemes[''] is before


def test_what_is_no_such_file_answers_in_one_line(tmp_path):
    path = tmp_path / 'x.safetensors'
    with pytest.raises(FileNotFoundError, match='does not exist; name a checkpoint file'):
        CheckpointLoader.load_checkpoint(str(path))
    path.write_bytes(b'not at all' * 9)
    with pytest.raises(ValueError, match='is not a safetensors file that can be read') as error:
        CheckpointLoader.load_checkpoint(str(path))
    assert '\n' not in str(error.value)
