"""The published classification heads beside the authors', attention pooling beside PyTorch's."""

import pytest
import torch
from safetensors.torch import save_file

from mmdet_seg.backbones import InternViT
from mmdet_seg.heads.attention_pooling import AttentionPooling
from mmdet_seg.probes.classify_head_file import (
    HeadFacts,
    head_from,
    put_projector,
    read_head_state,
    read_projector,
    save_head,
)
from mmdet_seg.probes.classify_heads import ClassificationHead, all_tokens, joined, pool
from mmdet_seg.probes.frozen_encoder import InternViTEncoder
from tests.golden_data import assert_close, golden_path, load_case, load_meta

CASES = [
    'H_attention_pooling',
    'H_clip_projector',
    'H_cls_patch_concat',
    'H_cls_patch_concat_ln',
    'N_eps_attention_pooling',
    'N_eps_clip_projector',
    'N_eps_cls_patch_concat',
]


def open_case(case, path, **overrides):
    config = case.meta['config']
    encoder = InternViT.from_pretrained(
        path, num_heads=config['num_heads'], frozen=True, dtype=torch.float32, **overrides
    )
    return InternViTEncoder(encoder, case.name)


def run(encoder, images, head):
    last = encoder.depth - 1
    features = encoder.features(images, [last])[last]
    with torch.no_grad():
        if head.pooling in ('attention_pooling', 'clip_projector'):
            x = all_tokens(features)
        else:
            x = joined({last: pool(features)}, [last], head.pooling)
        return features, head.pooled(x), head(x)


@pytest.mark.parametrize('wrapper', [None, 'model', 'module'])
@pytest.mark.parametrize('name', CASES)
def test_an_authors_checkpoint_gives_their_logits(name, wrapper, tmp_path):
    case = load_case(name)
    path = tmp_path / 'whole.pth'
    torch.save(case.state_dict if wrapper is None else {wrapper: case.state_dict}, path)
    encoder = open_case(case, path)
    state, facts = read_head_state(path)
    config = case.meta['config']
    assert facts.pooling == config['cls_target']
    if facts.pooling == 'clip_projector':
        facts.num_heads = config['attn_pool_num_heads']  # the published one has 16
    head = head_from(state, facts, num_heads=config['num_heads'])
    features, pooled, logits = run(encoder, case.inputs['x'], head)
    if 'tokens' in case.outputs:
        assert_close(all_tokens(features), case.outputs['tokens'])
        assert_close(pooled, case.outputs['pooled'])
    assert_close(logits, case.outputs['logits'])


def test_a_resized_pretrained_encoder_with_a_head_of_its_own(tmp_path):
    """The head's file holds no encoder, as the published one does not."""
    case = load_case('H_pretrained')
    path = tmp_path / 'head.pth'
    torch.save(
        {'model': {k: v for k, v in case.state_dict.items() if k[:5] in ('norm.', 'head.')}}, path
    )
    side = case.meta['config']['img_size']
    encoder = open_case(case, golden_path('H_pretrained.pth'), img_size=side)
    _, _, logits = run(encoder, case.inputs['x'], head_from(*read_head_state(path)))
    assert_close(logits, case.outputs['logits'])


@pytest.mark.parametrize(
    ('name', 'pooling', 'features'),
    [
        ('linear_probe_6b_224', 'cls_patch_concat', 6400),
        ('attn_pool_6b_448_v2_5', 'attention_pooling', 3200),
        ('clip_projector_6b_224', 'clip_projector', 3200),
    ],
)
def test_every_key_of_the_published_sizes_maps(name, pooling, features):
    keys = load_meta(f'K_keys_classification_{name}')['keys']
    parts = ('norm', 'head', 'attn_pooling', 'clip_projector')
    theirs = {k: tuple(v) for k, v in keys.items() if k.split('.')[0] in parts}
    pooled = theirs['head.weight'][1]
    with torch.device('meta'):
        head = ClassificationHead(features, 1000, pooling, num_heads=25, pooled_dim=pooled)
    assert {k: tuple(v.shape) for k, v in head.state_dict().items()} == theirs
    if pooling == 'cls_patch_concat':
        trained = sum(p.numel() for p in head.parameters() if p.requires_grad)
        assert trained == 6_413_800  # the authors' figure


@pytest.mark.parametrize('name', ['H_attention_pooling', 'H_clip_projector', 'H_cls_patch_concat'])
def test_the_same_parameters_train_as_in_the_authors_code(name, tmp_path):
    case = load_case(name)
    config = case.meta['config']
    path = tmp_path / 'whole.safetensors'
    save_file(case.state_dict, path)
    head = head_from(*read_head_state(path), num_heads=config['num_heads'])
    trained = [k for k, p in head.named_parameters() if p.requires_grad]
    assert sorted(trained) == sorted(case.meta['trainable'])


def test_attention_pooling_and_its_gradients_equal_those_of_multihead_attention():
    torch.manual_seed(0)
    ours = AttentionPooling(24, 3).double()
    peer = torch.nn.MultiheadAttention(24, 3, batch_first=True).double()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.5)
    cross = ours.cross_attn
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([cross.q.weight, cross.k.weight, cross.v.weight]))
        peer.in_proj_bias.copy_(torch.cat([cross.q_bias, cross.k_bias, cross.v_bias]))
    peer.out_proj = cross.proj
    x = torch.randn(2, 7, 24, dtype=torch.double, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out = ours(x)
    q, k, v = ours.norm1_q(y.mean(1, keepdim=True)), ours.norm1_k(y), ours.norm1_v(y)
    expected = peer(q, k, v)[0].squeeze(1)
    weight = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    (grad_expected,) = torch.autograd.grad((expected * weight).sum(), y)
    assert_close(out, expected, 1e-10)
    assert_close(grad, grad_expected, 1e-10)


@pytest.mark.parametrize('pooling', ['cls_patch_concat', 'attention_pooling', 'clip_projector'])
def test_a_written_head_is_read_as_it_was(tmp_path, pooling):
    torch.manual_seed(0)
    head = ClassificationHead(12, 5, pooling, num_heads=3, pooled_dim=8).eval()
    for p in head.parameters():
        torch.nn.init.normal_(p)
    facts = HeadFacts((1, 3), pooling, ('a', 'b', 'c', 'd', 'e'), 'abc', 3, False, 112)
    path = save_head(tmp_path / 'best.safetensors', head, facts)
    state, found = read_head_state(path)
    assert found.__dict__ == {**facts.__dict__, 'layers': [1, 3], 'classes': list('abcde')}
    again = head_from(state, found)
    x = torch.randn(4, 6, 12) if pooling != 'cls_patch_concat' else torch.randn(4, 12)
    assert torch.equal(head(x), again(x))


def test_a_head_without_class_token_reads_the_mean_patch():
    features = {2: pool_of(prefix=0), 5: pool_of(prefix=0)}
    x = joined(features, [2, 5], 'cls_patch_concat')
    assert torch.equal(x, features[5].mean)


def test_registers_are_no_patches():
    found = pool_of(prefix=3)
    assert torch.equal(found.token, torch.zeros(2, 4))
    assert torch.equal(found.mean, torch.full((2, 4), 2.0))


def pool_of(prefix):
    from mmdet_seg.probes.frozen_encoder import LayerFeatures

    tokens = torch.arange(prefix, dtype=torch.float).view(1, -1, 1).expand(2, -1, 4)
    return pool(LayerFeatures(tokens, torch.full((2, 4, 3, 2), 2.0)))


def test_what_is_no_head_is_refused_in_one_line(tmp_path):
    path = tmp_path / 'encoder.pth'
    torch.save({'blocks.0.norm1.weight': torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r'holds no classification head.*head\.weight'):
        read_head_state(path)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_head_state(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='holds no clip projector'):
        read_projector(path)
    torch.save({'head.weight': torch.ones(3, 4), 'norm.weight': torch.ones(4)}, path)
    with pytest.raises(ValueError, match=r'The head lacks (norm|head)\.bias'):
        head_from(*read_head_state(path))


def test_the_frozen_pool_comes_from_the_checkpoint_of_the_encoder(tmp_path):
    case = load_case('H_clip_projector')
    path = tmp_path / 'whole.pth'
    torch.save({'module': case.state_dict}, path)
    config = case.meta['config']
    head = ClassificationHead(
        48, 7, 'clip_projector', num_heads=config['attn_pool_num_heads'], pooled_dim=24
    )
    put_projector(head, read_projector(path))
    assert_close(head.pooled(case.outputs['tokens']), case.outputs['pooled'])
    other = ClassificationHead(48, 7, 'clip_projector', num_heads=4, pooled_dim=12)
    with pytest.raises(ValueError, match=r'cross_attn.proj.weight is \(24, 48\)'):
        put_projector(other, read_projector(path))
