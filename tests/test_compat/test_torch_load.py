"""Reading checkpoints: mmengine's own, hostile, damaged and missing ones, and resuming."""

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from mmdet_seg import compat
from mmdet_seg.compat.torch_load import TRUST, load_file

compat.install()


class Regression(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: list[torch.Tensor], mode: str = 'tensor') -> object:
        out = self.layer(torch.stack(x))
        return {'loss': out.square().mean()} if mode == 'loss' else list(out)


class Points(torch.utils.data.Dataset):
    """Eight points, with what datasets may say about themselves."""

    metainfo = {
        'classes': ('road', 'sky'),
        'palette': np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8),
        'extra': ConfigDict(names=['a'], sizes={'a': 1}),
    }

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {'x': torch.full((3,), float(index))}


class Score:
    """An evaluator's metric that reports numpy numbers, as mmseg's do."""

    dataset_meta = None

    def process(self, data_batch: object, data_samples: object) -> None:
        pass

    def evaluate(self, size: int) -> dict[str, np.floating]:
        return {'score': np.float32(0.25), 'count': np.float64(size)}


def some_runner(folder: Path, resume_from: Path | None = None) -> Runner:
    """A Runner with everything mmengine keeps in a checkpoint."""
    loader = {
        'dataset': Points(),
        'batch_size': 4,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    }
    schedule = [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 2},
        {'type': 'CosineAnnealingLR', 'T_max': 4, 'by_epoch': True},
        {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 20, 'by_epoch': False},
        {'type': 'ReduceOnPlateauLR', 'monitor': 'score', 'rule': 'greater', 'by_epoch': True},
    ]
    torch.manual_seed(0)
    optimizer = {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.1}
    return Runner(
        model=Regression(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Score()],
        val_cfg={},
        optim_wrapper={'optimizer': optimizer, 'paramwise_cfg': {'bias_decay_mult': 0.0}},
        param_scheduler=schedule,
        train_cfg={'by_epoch': True, 'max_epochs': 3, 'val_interval': 1},
        default_hooks={
            'checkpoint': {
                'type': 'CheckpointHook',
                'interval': 1,
                'save_best': 'score',
                'rule': 'greater',
            }
        },
        custom_hooks=[{'type': 'EMAHook'}],
        load_from=resume_from and str(resume_from),
        resume=resume_from is not None,
        experiment_name=folder.name,
        log_level='ERROR',
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """Work directory of a run of three epochs of two steps."""
    folder = tmp_path_factory.mktemp('run')
    some_runner(folder).train()
    return folder


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.target),))


def test_plain_torch_load_still_refuses_mmengines_checkpoints(trained):
    # The reason for the file; when this fails it can go.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(trained / 'epoch_2.pth')


def test_mmengines_checkpoint(trained):
    checkpoint = load_file(trained / 'epoch_2.pth')
    assert checkpoint['meta']['epoch'] == 2
    assert set(checkpoint) >= {'state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict'}
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer
    assert len(history.data[0]) == 4
    assert history.statistics('mean') == history.mean() > 0
    best = checkpoint['message_hub']['runtime_info']['best_score']
    assert isinstance(best, np.float32)
    assert best == 0.25
    meta = checkpoint['meta']['dataset_meta']
    assert meta['palette'].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert meta['extra'].sizes.a == 1


def test_what_was_read_can_be_written_and_read_again(trained, tmp_path):
    first = load_file(trained / 'epoch_2.pth')
    torch.save(first, tmp_path / 'again.pth')
    again = load_file(str(tmp_path / 'again.pth'))
    for key, value in first['state_dict'].items():
        assert torch.equal(again['state_dict'][key], value)
    assert again['message_hub']['log_scalars'].keys() == first['message_hub']['log_scalars'].keys()


def test_a_resumed_run_ends_as_the_uninterrupted_one(trained, tmp_path):
    runner = some_runner(tmp_path, resume_from=trained / 'epoch_2.pth')
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    resumed, expected = (load_file(folder / 'epoch_3.pth') for folder in (tmp_path, trained))
    for key, value in expected['state_dict'].items():
        torch.testing.assert_close(resumed['state_dict'][key], value)
    rates = [c['optimizer']['param_groups'][0]['lr'] for c in (resumed, expected)]
    assert rates[0] == rates[1]


def test_reading_a_buffer_leaves_the_class_alone(tmp_path, monkeypatch):
    # mmengine puts the functions stored with a buffer into the class, for all buffers.
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(HistoryBuffer._statistics_methods, 'mean', HistoryBuffer.max)
        path = saved(HistoryBuffer([1.0, 3.0], [1, 1]), tmp_path / 'buffer.pth')
    assert load_file(path).statistics('mean') == 2
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


def saved(content: object, path: Path, **kwargs: object) -> Path:
    torch.save(content, path, **kwargs)
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_file_does_not_run(tmp_path, zipped):
    target = tmp_path / 'created'
    content = {'state_dict': OrderedDict(a=torch.ones(1)), 'meta': Payload(target)}
    path = saved(content, tmp_path / 'bad.pth', _use_new_zipfile_serialization=zipped)
    for load in (load_file, lambda path: CheckpointLoader.load_checkpoint(str(path))):
        with pytest.raises(ValueError, match=r'bad\.pth') as error:
            load(path)
        message = str(error.value)
        assert 'mkdir' in message
        assert f'{TRUST}=1' in message
        assert '\n' not in message
    assert not target.exists()


def test_code_in_a_plain_pickle_does_not_run(tmp_path):
    target = tmp_path / 'created'
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f'plain{protocol}.pth'
        path.write_bytes(pickle.dumps(Payload(target), protocol))
        with pytest.raises(ValueError, match=path.name):
            load_file(path)
    assert not target.exists()


class Reach:
    """Unpickles to an attribute of something."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple:
        return (getattr, (self.owner, self.name))


@pytest.mark.parametrize('allowed', [[], [getattr, HistoryBuffer]])
def test_getattr_reaches_nothing_but_what_mmengine_stores(tmp_path, allowed):
    # onedl-mmengine puts the real getattr on torch's list while it loads.
    with torch.serialization.safe_globals(allowed):
        path = saved(Reach(HistoryBuffer, '__init__'), tmp_path / 'a.pth')
        assert load_file(path) is None
        for number, owner in enumerate((np.ndarray, ConfigDict, torch.Tensor)):
            path = saved(Reach(owner, '__init__'), tmp_path / f'{number}.pth')
            with pytest.raises(ValueError, match='getattr'):
                load_file(path)


def test_the_opt_in_runs_the_code(tmp_path, monkeypatch):
    target = tmp_path / 'created'
    path = saved(Payload(target), tmp_path / 'bad.pth')
    monkeypatch.setenv(TRUST, '1')
    load_file(path)
    assert target.is_dir()


def test_loading_leaves_torchs_own_list_as_it_was(trained):
    with torch.serialization.safe_globals([np.ndarray, Payload]):
        before = torch.serialization.get_safe_globals()
        load_file(trained / 'epoch_2.pth')
        with pytest.raises(ValueError, match='damaged'):
            load_file(trained / 'last_checkpoint')
        assert set(torch.serialization.get_safe_globals()) == set(before)


def test_what_the_user_allows_in_torch_is_allowed(tmp_path):
    path = saved(Path('somewhere'), tmp_path / 'path.pth')
    with pytest.raises(ValueError, match='pathlib'):
        load_file(path)
    with torch.serialization.safe_globals([type(Path())]):
        assert load_file(path) == Path('somewhere')


def test_a_url_is_read_by_the_same_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    target = tmp_path / 'created'
    saved(Payload(target), tmp_path / 'checkpoints' / 'bad.pth')  # as if downloaded before
    saved({'a': torch.ones(1)}, tmp_path / 'checkpoints' / 'good.pth')
    with pytest.raises(ValueError, match=r'https://example\.org/bad\.pth.*mkdir'):
        CheckpointLoader.load_checkpoint('https://example.org/bad.pth')
    assert not target.exists()
    assert CheckpointLoader.load_checkpoint('https://example.org/good.pth')['a'] == 1


def test_torch_load_outside_mmengine_is_untouched():
    module = sys.modules['mmengine.runner.checkpoint']
    assert module.torch.load is not torch.load
    assert module.torch.save is torch.save
    assert torch.load.__module__ == 'torch.serialization'


def damaged(path: Path, how: str) -> None:
    """Turn a good checkpoint into something else."""
    content = path.read_bytes()
    if how == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'text':
        path.write_text('<html>404</html>\n')
    elif how == 'another zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('readme.txt', 'hello')
    elif how == 'flipped':
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            start = content.index(archive.read('archive/data.pkl'))
        path.write_bytes(content[: start + 2] + bytes(20) + content[start + 22 :])
    elif how == 'script':
        torch.jit.script(torch.nn.Linear(1, 1)).save(path)


@pytest.mark.parametrize(
    'how', ['truncated', 'empty', 'text', 'another zip', 'flipped', 'script', 'folder']
)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, how):
    path = saved({'a': torch.ones(100)}, tmp_path / 'archive.pth')
    if how == 'folder':
        path = tmp_path
    else:
        damaged(path, how)
    with pytest.raises(ValueError, match=path.name) as error:
        load_file(path)
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize('load', [load_file, CheckpointLoader.load_checkpoint])
def test_a_missing_file(load):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        load('nowhere.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_mapped_files(tmp_path, zipped):
    path = saved(
        {'a': torch.arange(5.0)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped
    )
    assert load_file(path, mmap=True)['a'].tolist() == [0, 1, 2, 3, 4]


def test_a_checkpoint_without_its_device(tmp_path):
    # Written as a CUDA tensor's record is, without a GPU: only the device's name differs.
    path = saved({'a': torch.ones(3)}, tmp_path / 'a.pth')
    renamed = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(renamed, 'w') as out:
        for name in archive.namelist():
            record = archive.read(name)
            if name.endswith('data.pkl'):
                record = record.replace(b'X\x03\x00\x00\x00cpu', b'X\x06\x00\x00\x00cuda:0')
            out.writestr(name, record)
    path.write_bytes(renamed.getvalue())
    assert load_file(path)['a'].tolist() == [1, 1, 1]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="map_location='cpu'"):
            load_file(path, map_location=None)


class Theirs:
    """A class of somebody's program."""


def test_stand_ins_take_the_place_of_classes(tmp_path):
    class Nothing:
        pass

    torch.save({'a': torch.ones(2), 'theirs': Theirs()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'asks for .*Theirs'):
        load_file(tmp_path / 'x.pth')
    stand_in = [(Nothing, f'{Theirs.__module__}.Theirs')]
    content = load_file(tmp_path / 'x.pth', stand_ins=stand_in)
    assert type(content['theirs']) is Nothing
    with pytest.raises(ValueError, match=r'asks for .*Theirs'):
        load_file(tmp_path / 'x.pth')
