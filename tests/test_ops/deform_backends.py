"""Triton's kernels beside the PyTorch ones: how far apart they are.

    TRITON_INTERPRET=1 MMDET_SEG_DEFORM_ATTN=triton python -m tests.test_ops.deform_backends

prints it as JSON, on CPU: Triton decides at its import whether it interprets.
"""

import json
import sys

import torch

from mmdet_seg.ops import ms_deform_attn

# B, M, D, Q, P and levels: more queries than one program takes, channels and points that are no
# power of two, one level, one channel, one point.
CASES = (
    (1, 2, 30, 40, 3, ((5, 7), (3, 2))),
    (1, 1, 32, 20, 4, ((6, 4),)),
    (2, 1, 1, 20, 1, ((1, 9), (2, 2), (3, 1))),
)


def inputs(case: tuple, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """value, sampling_locations (a few outside the maps) and attention_weights."""
    B, M, D, Q, P, shapes = case
    generator = torch.Generator().manual_seed(0)
    positions = sum(height * width for height, width in shapes)
    value = torch.randn(B, positions, M, D, generator=generator)
    locations = torch.rand(B, Q, M, len(shapes), P, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(B, Q, M, len(shapes), P, generator=generator)
    return [tensor.to(device, dtype) for tensor in (value, locations, weights)]


def errors(case: tuple, dtype: torch.dtype, device: str) -> dict[str, float]:
    """``max|a - b| / max|b|`` of the result and of each gradient, b of PyTorch."""
    found = []
    for backend in ('auto', 'torch'):
        tensors = [tensor.requires_grad_() for tensor in inputs(case, dtype, device)]
        result = ms_deform_attn(tensors[0], case[-1], *tensors[1:], backend=backend)
        grad = torch.linspace(-1, 1, result.numel()).view_as(result).to(result)
        found.append([result.detach(), *torch.autograd.grad(result, tensors, grad)])
        assert all(tensor.dtype == dtype for tensor in found[-1])
    assert 'mmdet_seg.ops.ms_deform_attn_triton' in sys.modules
    names = ('result', 'value', 'locations', 'weights')
    return {
        name: ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
        for name, a, b in zip(names, *found, strict=True)
    }


def all_errors(device: str) -> dict[str, list[dict[str, float]]]:
    """In float32 those of every case, in the others of the first."""
    found = {'float32': [errors(case, torch.float32, device) for case in CASES]}
    for dtype in ('bfloat16', 'float16', 'float64'):
        found[dtype] = [errors(CASES[0], getattr(torch, dtype), device)]
    return found


if __name__ == '__main__':
    print(json.dumps(all_errors('cpu')))
