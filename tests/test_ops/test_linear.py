"""The fused linear layer equals the ordinary one, and steps aside where it must."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_seg.ops.linear import linear


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('shape', [(5, 24), (2, 7, 24), (2, 0, 24)])
def test_equals_the_ordinary_one(shape, with_bias, gelu, dtype, tolerance):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(16, 24).to(dtype)
    bias = torch.randn(16).to(dtype) if with_bias else None
    for source in (x, x.transpose(0, -2).contiguous().transpose(0, -2)):
        out = linear(source, weight, bias, gelu=gelu)
        expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        expected = F.gelu(expected) if gelu else expected
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance * 10)


def test_gradients_flow():
    x, weight = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True)
    linear(x, weight, gelu=True).sum().backward()
    expected = torch.autograd.grad(F.gelu(F.linear(x, weight)).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_autocast_decides_the_dtype():
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
