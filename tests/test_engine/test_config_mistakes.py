"""What people get wrong in a config: one line that says what to do, before anything is trained."""

import pytest
import torch

from mmdet_seg.engine.config_numbers import check_numbers
from mmdet_seg.engine.launch import process_group
from mmdet_seg.engine.preflight import check_start
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.work_dir import make_work_dir
from tests.test_engine.test_survival import config, run


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            {'optim_wraper.optimizer.lr': 1},
            'nothing reads optim_wraper; did you mean optim_wrapper',
        ),
        ({'device': 'cuda'}, 'nothing reads device; look at the config'),
        ({'max_iters': 3}, 'nothing reads max_iters; set train_cfg.max_iters'),
        ({'batch_size': 3}, 'nothing reads batch_size; set train_dataloader.batch_size'),
        ({'crop_size': 224}, 'crop_size=224 is not two whole numbers of pixels'),
        ({'crop_size': (224, -1)}, r'crop_size=\(224, -1\) is not two whole numbers'),
        ({'optim_wrapper.clip_grad': 0.1}, r'set it as optim_wrapper.clip_grad.max_norm=0\.1'),
        ({'optim_wrapper.clip_grad.max_nrm': 1}, 'clip_grad.max_nrm: there are .*max_norm'),
        ({'model.backbone.drop_path_rate': 2}, r'drop_path_rate=2 is not in \[0, 1\)'),
        ({'train_cfg.max_iters': 'abc'}, 'train_cfg.max_iters=abc is not a whole number'),
        ({'ema': 0.9}, 'set it as ema.decay'),
        ({'load_from': 'nowhere.pth'}, 'load_from=nowhere.pth: no such file or folder'),
        ({'resume': True}, 'names no checkpoint; give --resume'),
    ],
)
def test_entries(option, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:  # noqa: PT012
        cfg = load_recipe('upernet_internvit', arch='tiny', options=option)
        check_numbers(cfg)
        check_start(cfg)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'default_hooks.checkpoint.intervall': 5}, "unexpected keyword argument 'intervall'"),
        ({'default_hooks.chekpoint.interval': 5}, 'must contain the key "type"'),
        ({'model.decode_head.num_classes': 3}, r'num_classes=3, and the data have \d+ classes'),
        pytest.param(
            {'optim_wrapper.type': 'AmpOptimWrapper'},
            'only available training on gpu',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU'),
        ),
    ],
)
def test_what_only_building_finds(option, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(config(tmp_path, **option))
    assert not list((tmp_path / 'run').glob('*iter_*'))


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file/run', '/proc/run'):
        with pytest.raises(ValueError, match=r'Nothing can be written to .*; choose'):
            make_work_dir(str(folder))
    make_work_dir(str(tmp_path / 'a/b'))
    assert not list((tmp_path / 'a/b').iterdir())


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError, match='2 processes on a machine with 1 GPUs'), process_group():
        pass
