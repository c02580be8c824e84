"""The neck computes what mmseg's pyramid pooling does, at any size and from one image."""

import pytest
import torch

from mmdet_seg.necks import PyramidPooling
from mmdet_seg.necks.feature_pyramid import LayerNorm2d


@pytest.mark.parametrize('size', [(8, 8), (5, 7), (3, 2)])
def test_means_are_those_of_mmseg(size):
    from mmseg.models.decode_heads.psp_head import PPM

    torch.manual_seed(0)
    neck = PyramidPooling([12, 16], [16, 32], channels=6)
    theirs = PPM((1, 2, 3, 6), 16, 6, None, dict(type=LayerNorm2d, eps=1e-5),
                 dict(type='ReLU'), align_corners=False)  # fmt: skip
    for ours, branch in zip(neck.means, theirs, strict=True):
        branch[1].conv.load_state_dict(ours[0].state_dict())
    fine, coarse = torch.randn(2, 12, 9, 9), torch.randn(2, 16, *size)
    seen = []
    neck.mix.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = neck([fine, coarse])
    expected = torch.cat([coarse, *theirs(coarse)], dim=1)
    torch.testing.assert_close(seen[0], expected)
    assert out[0] is fine
    assert out[1].shape == coarse.shape
    assert [tuple(s) for s in neck.output_spec()] == [(12, 16), (16, 32)]


def test_one_image_trains():
    neck = PyramidPooling([16], [32], channels=8).train()
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    neck([x])[0].square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in neck.parameters())
