"""ViT-Adapters in recipes and runs: what trains, and what a checkpoint leaves out."""

import pytest
import torch
from mmseg.registry import MODELS

from mmdet_seg.backbones import InternViT
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.engine.model_conversion import convert_model
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.runner import build_runner
from mmdet_seg.engine.tuning import apply_tune
from tests.small_runs import run_job, small_run

LEAF = 'upernet_adapter_internvit'


@pytest.mark.parametrize('tune', ['head', 'partial:2', 'full', 'lora:2'])
def test_tune_reaches_the_encoder(tune):
    cfg = load_recipe(LEAF, arch='tiny', tune=tune)
    model = MODELS.build(cfg.model).backbone
    trained = {n for n, p in model.encoder.named_parameters() if p.requires_grad}
    everything = {n for n, _ in model.encoder.named_parameters()}
    assert (
        trained
        == {
            'head': set(),
            'partial:2': {n for n in everything if n.startswith(('blocks.2.', 'blocks.3.'))},
            'full': everything,
            'lora:2': {n for n in everything if 'lora_' in n},
        }[tune]
    )
    assert model.level_embed.requires_grad
    sum(out.mean() for out in model.train()(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize('injection', [True, False])
def test_a_frozen_encoder_is_recomputed_where_gradients_pass(injection):
    cfg = load_recipe(LEAF, arch='6b-224px', data='ade20k')
    cfg.model.backbone.injection = injection
    apply_tune(cfg, 'head')
    encoder = cfg.model.backbone.encoder
    assert (encoder.frozen, encoder.grad_checkpointing) == (True, injection)


def test_a_run_leaves_the_frozen_encoder_out_and_finds_it_again(tmp_path):
    torch.manual_seed(3)
    encoder = InternViT('tiny')
    torch.save({'module': encoder.state_dict()}, tmp_path / 'encoder.pth')
    options = small_run(tmp_path / 'scenes', 4, **{'model.backbone.conv_inplane': 8})
    cfg = load_recipe(
        f'{LEAF}_frozen', arch='tiny', options=options, weights=str(tmp_path / 'encoder.pth')
    )
    cfg.work_dir = str(tmp_path / 'run')
    runner = build_runner(cfg)
    runner.train()
    folder = open_folder(tmp_path / 'run/iter_4')
    names = {name for name, _ in folder.tensors('model')}
    assert 'backbone.spm.stem.0.weight' in names
    assert not any(name.startswith('backbone.encoder.') for name in names)

    again = MODELS.build(load_recipe(str(tmp_path / f'run/{LEAF}_frozen.py')).model).eval()
    load_weights(again, folder.path)
    convert_model(folder.path, tmp_path / 'whole.safetensors')
    whole = MODELS.build(load_recipe(str(tmp_path / f'run/{LEAF}_frozen.py')).model).eval()
    load_weights(whole, tmp_path / 'whole.safetensors')
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for out, expected in zip(again.backbone(x), whole.backbone(x), strict=True):
            assert torch.equal(out, expected)
    ours = again.backbone.encoder.blocks[2].attn.qkv.weight
    assert torch.equal(ours, encoder.blocks[2].attn.qkv.weight.bfloat16())


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['zero3', 'fsdp'])
def test_two_processes_with_shards_train_as_one(strategy, tmp_path):
    found = []
    for processes in (1, 2):
        options = small_run(
            tmp_path / 'scenes',
            4,
            **{
                'model.backbone.conv_inplane': 8,
                'model.backbone.init_values': 0.5,
                'train_dataloader.batch_size': 4 // processes,
                'optim_wrapper.type': 'OptimWrapper',  # float32
            },
        )
        job = dict(
            config=LEAF,
            options=options,
            strategy=strategy if processes > 1 else 'ddp',
            work_dir=str(tmp_path / f'run{processes}'),
        )
        path = tmp_path / f'{processes}.json'
        found.append(run_job('tests.strategy_process', job, path, processes)['losses'])
    assert found[1] == pytest.approx(found[0], rel=2e-6)
