"""All attention kernels give one answer."""

import pytest
import torch

from mmdet_seg.ops.attention import attention


def reference(q, k, v, mask):
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float('-inf'))
    return (scores.softmax(-1) @ v.double()).transpose(1, 2)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('shape', [(2, 3, 17, 8), (1, 5, 1100, 16), (3, 2, 1, 4)])
@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'eager'])
def test_against_float64(backend, shape, masked, grad, dtype, tolerance):
    # 1100 tokens: the scores of five heads do not fit at once, so they are done in parts.
    torch.manual_seed(0)
    B, _, N, _ = shape
    q, k, v = (torch.randn(shape, dtype=dtype) for _ in range(3))
    mask = None
    if masked:
        mask = torch.rand(B, N) > 0.3
        mask[:, 0] = True
    with torch.set_grad_enabled(grad):
        q.requires_grad_(grad)
        out = attention(q, k, v, backend=backend, key_mask=mask)
    assert out.shape == (B, N, *shape[1::2])
    assert out.is_contiguous()
    assert out.requires_grad == grad
    expected = reference(q.detach(), k, v, mask)
    assert (out.double() - expected).abs().max() / expected.abs().max() < tolerance


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'eager'])
def test_few_queries_with_a_mask_of_their_own(backend, grad, dtype):
    torch.manual_seed(0)
    B, H, M, N, d = 2, 3, 400, 1100, 8
    q = torch.randn(B, H, M, d, dtype=dtype)
    k, v = torch.randn(2, B, H, N, d, dtype=dtype)
    mask = torch.rand(B, M, N) > 0.7
    mask[..., 0] = True
    with torch.set_grad_enabled(grad):
        out = attention(q.requires_grad_(grad), k, v, backend=backend, mask=mask)
    scores = q.detach().double() @ k.double().transpose(-1, -2) / d**0.5
    scores = scores.masked_fill(~mask[:, None], float('-inf'))
    expected = (scores.softmax(-1) @ v.double()).transpose(1, 2)
    assert out.shape == (B, M, H, d)
    error = (out.double() - expected).abs().max() / expected.abs().max()
    assert error < (2e-6 if dtype == torch.float32 else 2e-2)


def test_gradients_agree():
    torch.manual_seed(0)
    grads = []
    for backend in ('sdpa', 'eager'):
        torch.manual_seed(1)
        tensors = [torch.randn(2, 3, 9, 4, requires_grad=True) for _ in range(3)]
        attention(*tensors, backend=backend).square().sum().backward()
        grads.append([t.grad for t in tensors])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_flash_attn_says_what_it_needs():
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match='needs CUDA and fp16 or bf16, not cpu float32'):
        attention(q, q, q, backend='flash_attn')
    with pytest.raises(ValueError, match='no key mask'):
        attention(q, q, q, backend='flash_attn', key_mask=torch.ones(1, 4, dtype=torch.bool))
