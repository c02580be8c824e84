"""``--tune``: what of the encoder trains, from the config to a run and what is made of it."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope, init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmdet_seg.backbones import InternViT, merge_lora
from mmdet_seg.datasets.scenes_files import prepare_scenes
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.export import export
from mmdet_seg.engine.recipe import load_recipe
from tests.small_runs import SCENES, run_options, tool

WAYS = ('head', 'partial', 'partial:2', 'full', 'lora', 'lora:2')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('data')
    return str(prepare_scenes(folder, **SCENES, seed=0, num_processes=1, progress=False))


def small_recipe(leaf, tune, root) -> Config:
    cfg = load_recipe(leaf, arch='tiny', tune=tune)
    for head in ('decode_head', 'auxiliary_head'):
        if 'channels' in (cfg.model.get(head) or {}):
            cfg.model[head].channels = 16
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = root
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return cfg


def trained_in(encoder) -> set[str]:
    return {n for n, p in encoder.named_parameters() if p.requires_grad}


def expected_in(encoder, tune) -> set[str]:
    """What should train, from the names alone."""
    names = [n for n, _ in encoder.named_parameters()]
    if tune == 'head':
        return set()
    if tune.startswith('lora'):
        return {n for n in names if 'lora_' in n}
    first = {'full': 0, 'partial': 3, 'partial:2': 2}[tune]
    blocks = tuple(f'blocks.{i}.' for i in range(first, 4))
    return {n for n in names if tune == 'full' or n.startswith(blocks)}


@pytest.mark.parametrize('leaf', ['mask_rcnn_internvit', 'mask_rcnn_adapter_internvit'])
@pytest.mark.parametrize('tune', ['head', 'partial:2', 'lora:2'])
def test_the_same_of_a_detector(leaf, tune):
    cfg = load_recipe(leaf, arch='tiny', tune=tune)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    encoder = getattr(model.backbone, 'encoder', model.backbone)
    assert trained_in(encoder) == expected_in(encoder, tune)
    ours = {id(p) for p in encoder.parameters()}
    assert all(p.requires_grad for p in model.parameters() if id(p) not in ours)


def test_queries_need_blocks_that_train():
    cfg = load_recipe('eomt_internvit', arch='tiny', tune='head')
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    with scope, pytest.raises(ValueError, match='--tune partial:2, full or lora'):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('leaf', ['upernet_internvit', 'upernet_internvit_frozen'])
@pytest.mark.parametrize('tune', WAYS)
def test_a_step_trains_this_part_and_the_heads(leaf, tune, scenes):
    cfg = small_recipe(leaf, tune, scenes)
    if tune.endswith('2'):
        cfg.model.encoder_dtype = 'bf16'  # as with published encoders
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    with torch.no_grad():  # at zero, lora_A has no gradient yet
        for name, value in model.named_parameters():
            if 'lora_B' in name:
                value.normal_(std=0.1)
    assert trained_in(model.backbone) == expected_in(model.backbone, tune)
    wrapper = cfg.optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=wrapper.pop('constructor'),
            paramwise_cfg=wrapper.pop('paramwise_cfg'),
            optim_wrapper_cfg=wrapper,
        )
    )
    items = DATASETS.build(cfg.train_dataloader.dataset)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = model.train().train_step(pseudo_collate([items[0], items[1]]), constructor(model))
    assert torch.isfinite(losses['loss'])
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {n.removeprefix('backbone.') for n in changed if n.startswith('backbone.')} == (
        expected_in(model.backbone, tune)
    )
    assert {n for n in before if n.startswith(('decode_head', 'auxiliary_head'))} <= changed

    held_out = DATASETS.build(cfg.val_dataloader.dataset)
    sample = model.eval().val_step(pseudo_collate([held_out[0]]))[0]
    assert sample.pred_sem_seg.shape == sample.ori_shape


def test_published_encoders_take_what_applies():
    head = load_recipe('upernet_internvit', arch='6b-224px', data='ade20k', tune='head')
    leaf = load_recipe('upernet_internvit_frozen', arch='6b-224px', data='ade20k')
    same = ('arch', 'out_indices', 'frozen', 'drop_path_rate', 'grad_checkpointing', 'init_cfg')
    for key in same:
        assert head.model.backbone[key] == leaf.model.backbone[key], key
    assert head.optim_wrapper.paramwise_cfg == leaf.optim_wrapper.paramwise_cfg
    assert head.published_miou is None  # another leaf's

    lora = load_recipe('upernet_internvit_frozen', arch='6b-224px', data='ade20k', tune='lora')
    backbone = lora.model.backbone
    assert backbone.lora == dict(rank=16, alpha=32, dropout=0.0)
    assert (backbone.frozen, backbone.drop_path_rate, backbone.grad_checkpointing) == (
        False, 0.0, True,
    )  # fmt: skip
    assert lora.optim_wrapper.paramwise_cfg.layer_decay_rate == 1.0
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(lora.model)
    found = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert found == 48 * 16 * (4 * 3200 + 2 * 3200 + 2 * (3200 + 12800))


@pytest.mark.parametrize(
    ('arch', 'tune', 'stages'),
    [
        ('6b-224px', 'partial', 32),
        ('6b-448px-v2-5', 'partial', 30),
        ('6b-224px', 'partial:1', 47),
        ('300m-448px', 'partial', 16),
    ],
)
def test_partial_is_the_last_blocks(arch, tune, stages):
    cfg = load_recipe('upernet_internvit', arch=arch, data='ade20k', tune=tune)
    assert cfg.model.backbone.frozen_stages == stages
    assert cfg.model.backbone.drop_path_rate > 0


def test_partial_counts_from_the_last_output():
    """The published probe of V1-0 reads block 45 of 48."""
    cfg = load_recipe('linear_internvit', arch='6b-448px-v1-0', data='ade20k', tune='partial:5')
    assert cfg.model.backbone.frozen_stages == 40


def test_options_come_after_tune():
    cfg = load_recipe(
        'upernet_internvit', options={'model.backbone.lora.dropout': 0.1}, tune='lora:8'
    )
    assert cfg.model.backbone.lora == dict(rank=8, alpha=16, dropout=0.1)
    assert 'tune' not in cfg


@pytest.mark.parametrize(
    ('tune', 'message'),
    [
        ('lra', r'--tune lra: there are head, partial\[:BLOCKS\], full and lora\[:RANK\]'),
        ('lora:0', 'with numbers from 1'),
        ('lora:', 'with numbers from 1'),
        ('lora:x', 'with numbers from 1'),
        ('head:2', 'with numbers from 1'),
        ('partial:6', 'outputs depend on 6 blocks; give 1 to 5, or --tune full'),
    ],
)
def test_mistakes_answer_in_one_line(tune, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe('upernet_internvit', tune=tune)
    assert '\n' not in str(caught.value)


def test_a_config_without_an_internvit(tmp_path):
    path = tmp_path / 'other.py'
    path.write_text("model = dict(type='EncoderDecoder', backbone=dict(type='ResNet', depth=50))")
    done = tool('train', path, '--tune', 'lora')
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert '--tune lora: the config has no InternViT in model.backbone to tune' in done.stderr


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of LoRA as a person starts it."""
    folder = tmp_path_factory.mktemp('run')
    done = tool(
        'train', 'upernet_internvit', '--arch', 'tiny', '--tune', 'lora:4', '--work-dir',
        folder / 'run', *run_options(folder / 'scenes', 4),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr
    return folder / 'run'


def test_a_runs_own_config_says_how_it_was_tuned(run):
    cfg = Config.fromfile(run / 'upernet_internvit.py')
    assert cfg.model.backbone.lora == dict(rank=4, alpha=8, dropout=0.0)
    parameters = json.loads((run / 'summary.json').read_text())['parameters']
    assert 0 < parameters['trained'] < parameters['total']
    last = run / 'iter_4'
    done = tool('test', run / 'upernet_internvit.py', last, '--work-dir', run / 'test')
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / 'summary.json').read_text())
    assert done.stdout.splitlines()[-1] == f'mIoU: {summary["validations"][-1]["mIoU"]:.2f}'


def test_a_run_goes_on(run):
    done = tool(
        'train', run / 'upernet_internvit.py', '--resume', run, '--cfg-options',
        'train_cfg.max_iters=6', 'train_cfg.val_interval=6',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    early, late = (dict(open_folder(run / f'iter_{i}').tensors('model')) for i in (4, 6))
    moved = {n for n in early if not torch.equal(early[n], late[n])}
    names = {n for n in early if n.startswith('backbone.')}
    assert moved & names == {n for n in names if n.endswith('.default.weight')}


def test_a_runs_checkpoint_is_converted_merged(run, tmp_path):
    checkpoint = run / 'iter_4'
    done = tool('convert', checkpoint, tmp_path / 'encoder', '--to', 'native', '--dtype', 'fp32')
    assert done.returncode == 0, done.stderr
    assert 'LoRA adapters merged into 16' in done.stdout
    model = MODELS.build(load_recipe(str(run / 'upernet_internvit.py')).model)
    load_weights(model, checkpoint)
    expected = merge_lora(model.backbone.float()).state_dict()
    plain = InternViT.from_pretrained(tmp_path / 'encoder').state_dict()
    assert plain.keys() == expected.keys()
    for name, value in plain.items():
        assert torch.equal(value, expected[name]), name


def test_a_runs_checkpoint_is_exported_merged(run, tmp_path, capsys):
    out = tmp_path / 'model.pt2'
    config, checkpoint = str(run / 'upernet_internvit.py'), str(run / 'iter_4')
    assert export(config, checkpoint, 'torch_export', out=str(out), size=(112, 112)) == 0
    assert 'bfloat16 is exported in fp32' in capsys.readouterr().out
    names = torch.export.load(out).state_dict.keys()
    assert not any('lora' in n or 'base_layer' in n for n in names)
    # What the run would infer, from a file without adapters.
    model = MODELS.build(load_recipe(config).model)
    load_weights(model, checkpoint)
    images = torch.randint(0, 256, (1, 3, 98, 70)).float()
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    model.backbone.float()
    with torch.no_grad():
        x = (images - mean) / std
        expected = revert_sync_batchnorm(model).eval().encode_decode(x, [{'img_shape': (98, 70)}])
    found = torch.export.load(out).module()(images)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
