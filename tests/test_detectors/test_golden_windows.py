"""The authors' windowed detection backbone: encoder, windows, positions and pyramid."""

import pytest
import torch

from mmdet_seg.backbones import InternViT
from mmdet_seg.necks import FeaturePyramid
from tests.golden_data import assert_close, load_case


@pytest.mark.parametrize('name', ['C_mmdet_internvit_1', 'C_mmdet_internvit_2'])
@torch.no_grad()
def test_the_authors_detection_backbone(name):
    case = load_case(name)
    config, state = case.meta['config'], dict(case.state_dict)
    state['pos_embed'] = state['pos_embed'][:, 1:]  # theirs keeps an unused class position
    fields = ('img_size', 'patch_size', 'embed_dim', 'num_heads', 'mlp_ratio', 'depth')
    depth, window = config['depth'], config['window_size']
    on = config['window_attn'] if isinstance(config['window_attn'], list) else [True] * depth
    sizes = window if isinstance(window, list) else [window] * depth
    encoder = InternViT(
        {**{k: config[k] for k in fields}, 'num_prefix_tokens': 0},
        config['out_indices'],
        window_size=[size if used else 0 for size, used in zip(sizes, on, strict=True)],
        window_padding='zeros',
    ).eval()
    pyramid = FeaturePyramid(
        config['embed_dim'], config['patch_size'], final_norm=config.get('with_final_norm', False)
    )
    up = {k: v for k, v in state.items() if k.startswith('up')}
    encoder.load_state_dict({k: v for k, v in state.items() if k not in up})
    pyramid.load_state_dict(up)
    x = case.inputs['x']
    for found, number in zip(pyramid(encoder(x)), range(4), strict=True):
        assert_close(found, case.outputs[f'f.{number}'])
    for block in encoder.blocks:  # ours leaves the padding out of the softmax, which shows
        block.attn.mask_padding = True
    with pytest.raises(AssertionError):
        assert_close(pyramid(encoder(x))[2], case.outputs['f.2'])
