"""Encoders give what their own libraries give: every block, any size, final norm, attention."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint_writer import save_encoder
from mmdet_seg.probes.encoder_options import add_encoder_arguments, encoder_from
from mmdet_seg.probes.frozen_encoder import open_encoder

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')

TIMM = {
    # name: options beside the size (prefix tokens, patch)
    'vit_tiny_patch16_224': (1, 16),
    'vit_small_patch14_reg4_dinov2': (5, 14),
    'vit_base_patch16_siglip_224': (0, 16),
    'vit_base_patch16_clip_224': (1, 16),
    'vit_small_patch16_dinov3': (5, 16),
    'vit_small_patch8_224': (1, 8),
}
SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
VISION = dict(**SMALL, image_size=64, patch_size=16)
TEXT = dict(**SMALL, vocab_size=100, bos_token_id=0, eos_token_id=1)
HF = {
    'dinov2': lambda t: t.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        layerscale_value=0.5,
    ),
    'registers': lambda t: t.Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
    ),
    'dinov3': lambda t: t.DINOv3ViTConfig(**VISION, num_register_tokens=4),
    'vit': lambda t: t.ViTConfig(**VISION),
    'siglip': lambda t: t.SiglipConfig(text_config=TEXT, vision_config=VISION),
    'clip': lambda t: t.CLIPConfig(text_config=TEXT, vision_config=VISION),
    'clip_vision': lambda t: t.CLIPVisionConfig(**VISION),
    'internvl': lambda t: t.InternVLVisionConfig(**SMALL, image_size=[56, 56], patch_size=[14, 14]),
}


def rough(model: nn.Module) -> nn.Module:
    """Weights that are not small: a wrong token or norm then shows."""
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3 if p.dim() > 1 else 0.7)
    return model.eval()


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6)


@pytest.fixture(params=TIMM)
def timm_model(request, tmp_path, monkeypatch):
    """A shrunken model of timm whose weights lie in a file."""
    name = request.param
    make = timm.create_model

    def small(name, **options):
        return make(name, **(options | dict(embed_dim=48, depth=3, num_heads=2)))

    monkeypatch.setattr(timm, 'create_model', small)
    model = rough(small(name, num_classes=0, dynamic_img_size=True))
    save_file(model.state_dict(), tmp_path / 'w.safetensors')
    return name, model, open_encoder(f'timm:{name}@{tmp_path}/w.safetensors', dtype='fp32')


def test_timm_encoders_are_timm(timm_model):
    name, model, encoder = timm_model
    K, P = TIMM[name]
    assert (encoder.num_prefix_tokens, encoder.patch_size, encoder.depth) == (K, P, 3)
    for size in ((4 * P, 4 * P), (3 * P, 5 * P)):
        x = torch.randn(2, 3, *size)
        seen = {}
        hooks = [
            block.register_forward_hook(lambda _m, _i, out, i=i, to=seen: to.update({i: out}))
            for i, block in enumerate(model.blocks)
        ]
        with torch.no_grad():
            last = model.forward_features(x)
        for hook in hooks:
            hook.remove()
        found = encoder.features(x, [0, -1])
        assert list(found) == [0, 2]
        for layer, entry in found.items():
            assert entry.patches.shape[2:] == (size[0] // P, size[1] // P)
            tokens = torch.cat([entry.prefix, entry.patches.flatten(2).transpose(1, 2)], 1)
            close(tokens, seen[layer])
        if encoder.has_final_norm:
            entry = encoder.features(x, [2], final_norm=True)[2]
            tokens = torch.cat([entry.prefix, entry.patches.flatten(2).transpose(1, 2)], 1)
            close(tokens, last)


def test_attention_of_timm_makes_the_blocks_output(timm_model):
    _, _, encoder = timm_model
    P = encoder.patch_size
    x = torch.randn(2, 3, 3 * P, 4 * P)
    attn = encoder.model.blocks[1].attn
    taken = {}
    hooks = [
        attn.register_forward_hook(lambda _m, i, _o: taken.update(x=i[0])),
        attn.proj.register_forward_hook(lambda _m, i, _o: taken.update(out=i[0])),
    ]
    encoder.features(x, [1])
    for hook in hooks:
        hook.remove()
    weights = encoder.attention(x, 1)
    assert attn.fused_attn  # as it was
    with torch.no_grad():
        qkv = attn.qkv(taken['x'])
        if getattr(attn, 'v_bias', None) is not None and attn.qkv.bias is None:
            qkv = qkv + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    value = qkv.chunk(3, -1)[2].unflatten(-1, (encoder.num_heads, -1)).transpose(1, 2)
    close((weights @ value).transpose(1, 2).flatten(2), taken['out'])


@pytest.fixture(params=HF)
def hf_model(request, tmp_path):
    """A small model of transformers in a directory."""
    config = HF[request.param](transformers)
    model = rough(transformers.AutoModel.from_config(config))
    model.save_pretrained(tmp_path)
    model = getattr(model, 'vision_model', model)
    return model, open_encoder(f'hf:{tmp_path}', dtype='fp32')


def test_encoders_of_transformers_are_theirs(hf_model):
    model, encoder = hf_model
    P = encoder.patch_size
    kind = model.config.model_type
    for size in ((4 * P, 4 * P), (3 * P, 5 * P)):
        x = torch.randn(2, 3, *size)
        more = {'interpolate_pos_encoding': True} if 'lip' in kind or kind == 'vit' else {}
        with torch.no_grad():
            out = model(x, output_hidden_states=True, **more)
        found = encoder.features(x, [0, 1, 2])
        for layer, entry in found.items():
            assert entry.patches.shape[2:] == (size[0] // P, size[1] // P)
            tokens = torch.cat([entry.prefix, entry.patches.flatten(2).transpose(1, 2)], 1)
            close(tokens, out.hidden_states[layer + 1])
        if encoder.has_final_norm and 'clip_v' not in kind:  # CLIP norms the class token alone
            entry = encoder.features(x, [2], final_norm=True)[2]
            tokens = torch.cat([entry.prefix, entry.patches.flatten(2).transpose(1, 2)], 1)
            close(tokens, out.last_hidden_state)


def test_attention_of_transformers_is_theirs(hf_model):
    model, encoder = hf_model
    P = encoder.patch_size
    x = torch.randn(2, 3, 4 * P, 4 * P)
    model.set_attn_implementation('eager')
    with torch.no_grad():
        theirs = model(x, output_attentions=True).attentions
    close(encoder.attention(x, 1), theirs[1])
    assert encoder.model.config._attn_implementation == 'sdpa'  # as it was


def test_internvit_opens_either_way(tmp_path):
    torch.manual_seed(0)
    ours = rough(InternViT('small'))
    save_encoder(ours.state_dict(), ours.arch, tmp_path / 'native', 'native')
    theirs = open_encoder(f'hf:{tmp_path}/native', dtype='fp32')
    own = open_encoder(str(tmp_path / 'native'), dtype='fp32')
    assert not theirs.has_final_norm
    assert theirs.mean + theirs.std == pytest.approx(own.mean + own.std)
    x = torch.randn(2, 3, 56, 84)
    a, b = theirs.features(x, [0, 5]), own.features(x, [0, -1])
    for layer in (0, 5):
        close(b[layer].patches, a[layer].patches, 1e-4)
        close(b[layer].prefix, a[layer].prefix, 1e-4)
    close(own.attention(x, 3), theirs.attention(x, 3), 1e-4)


def test_identity_is_of_the_weights(tmp_path):
    a, b = open_encoder('random:tiny'), open_encoder('random:tiny')
    assert a.identity == b.identity
    assert len({a.identity, open_encoder('random:tiny', dtype='fp32').identity}) == 2
    with torch.no_grad():
        b.encoder.blocks[1].mlp.fc1.bias[3] += 1
    b._identity = None
    assert a.identity != b.identity
    renamed = open_encoder('timm:random:vit_tiny_patch16_224')
    same = open_encoder('timm:random:vit_tiny_patch16_224')
    assert renamed.identity == same.identity


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('timm:vit_tinny_patch16_224', 'Did you mean vit_tiny_patch16_224'),
        ('timm:random:swin_tiny_patch4_window7_224', 'no plain vision transformer'),
        ('timm:random:convnext_atto', 'no plain vision transformer'),
        ('timm:vit_tiny_patch16_224@nowhere.safetensors', 'No file'),
        ('timm:vit_tiny_patch16_224', 'timm:random:vit_tiny_patch16_224'),
        ('timm:vit_tiny_patch16_224@{}/other.safetensors', 'does not fit'),
        ('hf:nowhere', 'no hub id'),
        ('hf:somebody/nothing', 'not in the cache'),
        ('hf:{}/swin', 'no plain vision transformer'),
        ('hf:{}/convnext', 'no plain vision transformer'),
        ('hf:{}/siglip2', 'no plain vision transformer'),
        ('hf:{}/text', 'no plain vision transformer'),
        ('hf:{}/remote', 'opens without the prefix'),
        ('hf:{}/headless', 'no weights for'),
    ],
)
def test_mistakes_are_one_line(source, words, tmp_path, monkeypatch):
    monkeypatch.setattr('mmdet_seg.backbones.hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('mmdet_seg.backbones.hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    save_file({'a': torch.ones(1)}, tmp_path / 'other.safetensors')
    t = transformers
    made = {
        'swin': t.SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[1, 2], image_size=64),
        'convnext': t.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4),
        'siglip2': t.Siglip2VisionConfig(**SMALL, num_patches=16),
        'text': t.BertConfig(**TEXT),
    }
    what = source.rpartition('/')[2]
    if what in made:
        t.AutoModel.from_config(made[what]).save_pretrained(tmp_path / what)
    elif what == 'remote':
        arch = InternViT('tiny')
        save_encoder(arch.state_dict(), arch.arch, tmp_path / what, 'hub')
    elif what == 'headless':
        t.ViTConfig(**VISION).save_pretrained(tmp_path / what)
        save_file({'a': torch.ones(1)}, tmp_path / what / 'model.safetensors')
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_encoder(source.format(tmp_path))
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('source', ['random:tiny', 'timm:random:test_vit'])
def test_what_is_not_there_is_said(source):
    encoder = open_encoder(source)
    P, last = encoder.patch_size, encoder.depth - 1
    with pytest.raises(ValueError, match=f'0 .. {last}'):
        encoder.features(torch.zeros(1, 3, P, P), [encoder.depth])
    with pytest.raises(ValueError, match='nearest that fits'):
        encoder.features(torch.zeros(1, 3, P, P + 1), [0])
    with pytest.raises(ValueError, match='was asked for'):
        encoder.features(torch.zeros(1, 3, P, P), [])
    if not encoder.has_final_norm:
        with pytest.raises(ValueError, match='no final norm'):
            encoder.features(torch.zeros(1, 3, P, P), [0], final_norm=True)


def test_options_open_it():
    parser = argparse.ArgumentParser()
    add_encoder_arguments(parser)
    args = parser.parse_args(['random:tiny', '--dtype', 'fp32'])
    args.device = 'cpu'
    encoder = encoder_from(args)
    facts = encoder.describe()
    assert (facts['dtype'], facts['quantization'], facts['depth']) == ('float32', None, 4)
    args.device = 'cuda:99'
    with pytest.raises(ValueError, match='CUDA devices'):
        encoder_from(args)
