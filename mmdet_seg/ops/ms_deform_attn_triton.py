"""Multi-scale deformable attention in Triton, forward and backward, for CUDA.

Triton compiles a kernel when it is first called, nothing is built before. A program handles some
queries of one head and adds up in float32 (float64 for float64). The gradient of the maps is added
up by atomic operations, so its last bits change from run to run.

Letters as in :mod:`mmdet_seg.ops.ms_deform_attn`.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmdet_seg.ops.ms_deform_attn_torch import computed_in

# Channels x queries of a program.
_TILE = 1024


@triton.jit
def _pixel(x, y, dx: tl.constexpr, dy: tl.constexpr, w, h, start, valid):  # noqa: ANN001, ANN202
    """One pixel of the points' cells: its position, whether it exists, its share."""
    left, top = tl.floor(x), tl.floor(y)
    # Far outside, an integer would overflow. NaN stays in the share.
    column = tl.minimum(tl.maximum(left, -2.0), w + 1.0).to(tl.int32) + dx
    row = tl.minimum(tl.maximum(top, -2.0), h + 1.0).to(tl.int32) + dy
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h) & valid
    share_x = x - left if dx == 1 else 1.0 - (x - left)
    share_y = y - top if dy == 1 else 1.0 - (y - top)
    return start + row * w + column, inside, share_x, share_y


@triton.jit
def _forward_kernel(  # noqa: ANN202
    value,  # noqa: ANN001
    shapes,  # noqa: ANN001
    locations,  # noqa: ANN001
    weights,  # noqa: ANN001
    out,  # noqa: ANN001
    N,  # noqa: ANN001
    Q,  # noqa: ANN001
    M,  # noqa: ANN001
    L,  # noqa: ANN001
    D: tl.constexpr,
    P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DTYPE: tl.constexpr,
):
    image = (tl.program_id(1) // M).to(tl.int64)
    head = tl.program_id(1) % M
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    valid = query < Q
    result = (image * Q + query) * M + head
    maps = value + (image * N * M + head) * D + channel
    total = tl.zeros((BLOCK_Q, BLOCK_D), DTYPE)
    start = 0
    for level in range(L):
        h = tl.load(shapes + 2 * level)
        w = tl.load(shapes + 2 * level + 1)
        for p in range(P):
            point = (result * L + level) * P + p
            x = tl.load(locations + 2 * point, mask=valid, other=0.0).to(DTYPE) * w - 0.5
            y = tl.load(locations + 2 * point + 1, mask=valid, other=0.0).to(DTYPE) * h - 0.5
            weight = tl.load(weights + point, mask=valid, other=0.0).to(DTYPE)
            for corner in tl.static_range(4):
                at, inside, share_x, share_y = _pixel(
                    x, y, corner % 2, corner // 2, w, h, start, valid
                )
                mask = inside[:, None] & (channel < D)
                pixels = tl.load(maps + at[:, None] * (M * D), mask=mask, other=0.0).to(DTYPE)
                total += (share_x * share_y * weight)[:, None] * pixels
        start += h * w
    mask = valid[:, None] & (channel < D)
    tl.store(out + result[:, None] * D + channel, total, mask=mask)


@triton.jit
def _backward_kernel(  # noqa: ANN202
    grad,  # noqa: ANN001
    value,  # noqa: ANN001
    shapes,  # noqa: ANN001
    locations,  # noqa: ANN001
    weights,  # noqa: ANN001
    grad_value,  # noqa: ANN001
    grad_locations,  # noqa: ANN001
    grad_weights,  # noqa: ANN001
    N,  # noqa: ANN001
    Q,  # noqa: ANN001
    M,  # noqa: ANN001
    L,  # noqa: ANN001
    D: tl.constexpr,
    P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DTYPE: tl.constexpr,
):
    image = (tl.program_id(1) // M).to(tl.int64)
    head = tl.program_id(1) % M
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    valid = query < Q
    result = (image * Q + query) * M + head
    first = (image * N * M + head) * D + channel
    mask = valid[:, None] & (channel < D)
    grad = tl.load(grad + result[:, None] * D + channel, mask=mask, other=0.0).to(DTYPE)
    start = 0
    for level in range(L):
        h = tl.load(shapes + 2 * level)
        w = tl.load(shapes + 2 * level + 1)
        for p in range(P):
            point = (result * L + level) * P + p
            x = tl.load(locations + 2 * point, mask=valid, other=0.0).to(DTYPE) * w - 0.5
            y = tl.load(locations + 2 * point + 1, mask=valid, other=0.0).to(DTYPE) * h - 0.5
            weight = tl.load(weights + point, mask=valid, other=0.0).to(DTYPE)
            slope_x = tl.zeros((BLOCK_Q,), DTYPE)
            slope_y = tl.zeros((BLOCK_Q,), DTYPE)
            slope_weight = tl.zeros((BLOCK_Q,), DTYPE)
            for corner in tl.static_range(4):
                at, inside, share_x, share_y = _pixel(
                    x, y, corner % 2, corner // 2, w, h, start, valid
                )
                mask = inside[:, None] & (channel < D)
                offset = first + at[:, None] * (M * D)
                pixels = tl.load(value + offset, mask=mask, other=0.0).to(DTYPE)
                dot = tl.sum(pixels * grad, 1)
                slope_weight += share_x * share_y * dot
                slope_x += (share_y * dot) * (2 * (corner % 2) - 1)
                slope_y += (share_x * dot) * (2 * (corner // 2) - 1)
                share = (share_x * share_y * weight)[:, None] * grad
                tl.atomic_add(grad_value + offset, share, mask=mask)
            tl.store(grad_weights + point, slope_weight, mask=valid)
            tl.store(grad_locations + 2 * point, slope_x * weight * w, mask=valid)
            tl.store(grad_locations + 2 * point + 1, slope_y * weight * h, mask=valid)
        start += h * w


def forward(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The attended values (B, Q, M * D); arguments as in ``ms_deform_attn_torch.forward``."""
    out = value.new_zeros(value.shape[0], locations.shape[1], *value.shape[2:])
    inputs = (value, shapes, locations, weights)
    _launch(_forward_kernel, (), inputs, (out,))
    return out.flatten(2)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, in their dtypes."""
    dtype = computed_in(value, locations, weights)
    grad_value = torch.zeros(value.shape, dtype=dtype, device=value.device)
    grad_locations = torch.zeros(locations.shape, dtype=locations.dtype, device=value.device)
    grad_weights = torch.zeros(weights.shape, dtype=weights.dtype, device=value.device)
    inputs = (value, shapes, locations, weights)
    _launch(_backward_kernel, (grad,), inputs, (grad_value, grad_locations, grad_weights))
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(
    kernel: triton.JITFunction,
    before: tuple[Tensor, ...],
    inputs: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor],
    results: tuple[Tensor, ...],
) -> None:
    """Run a kernel on the tensors' device, which need not be the current one."""
    value, shapes, locations, weights = inputs
    if weights.numel() == 0 or value.numel() == 0:
        return
    B, N, M, D = value.shape
    _, Q, _, L, P, _ = locations.shape
    wide = computed_in(value, locations, weights) == torch.float64
    block_d = triton.next_power_of_2(D)
    block_q = max(1, _TILE // block_d)
    with torch.cuda.device_of(value):
        kernel[(triton.cdiv(Q, block_q), B * M)](
            *(t.contiguous() for t in (*before, value)),
            _on_device(tuple(shapes), value.device),
            *(t.contiguous() for t in (locations, weights)),
            *results,
            N,
            Q,
            M,
            L,
            D=D,
            P=P,
            BLOCK_Q=block_q,
            BLOCK_D=block_d,
            DTYPE=tl.float64 if wide else tl.float32,
        )


@lru_cache(maxsize=64)
def _on_device(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Sizes of levels beside the maps: copying them every time would wait for the device."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)
