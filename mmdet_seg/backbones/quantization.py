"""Weights of 8 bits for encoders that no longer train: the one file that imports torchao.

``int8``: weights alone, a scale for every output channel; products stay in the features' precision.
It halves the memory of bf16 for 4 % more time on CPU. torchao's int8 activations, measured beside
it, took 13 % more than bf16: quantising and rescaling cost more than the faster product saves. With
a larger error too, they are not offered. (CPU time of one 300M block, 1297 tokens, one core of an
AMD EPYC with AVX-512 VNNI, torchao 0.18, torch 2.14, 2026-11-23: 0.254, 0.263 and 0.291 s.)
``fp8``: weights and, row by row while it runs, activations; it needs a GPU that
multiplies in fp8.

Shapes: B images, T tokens, D channels.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HOWS = ('int8', 'fp8')
_FP8_CAPABILITY = (8, 9)
_MULTIPLE = 16  # of both sides of a weight, which fp8 products need


@dataclass(frozen=True)
class QuantizationReport:
    """What quantisation changed.

    Attributes:
        how: One of :data:`HOWS`.
        num_layers: Linear layers whose weights are held in 8 bits.
        bytes_before: Of all tensors of the encoder.
        bytes_after: Likewise.
        errors: Layer to ``rms`` (of the difference over that of the features) and ``cosine`` (mean
            over tokens) between the features before and after.
        images: What they were measured on, in words.
    """

    how: str
    num_layers: int
    bytes_before: int
    bytes_after: int
    errors: Mapping[int, Mapping[str, float]]
    images: str = 'images'

    @property
    def worst(self) -> int:
        """The layer whose features changed most."""
        return max(self.errors, key=lambda layer: self.errors[layer]['rms'])

    def text(self) -> str:
        """One line for people."""
        last, worst = max(self.errors), self.worst
        return (
            f'{self.how}: {self.num_layers} linear layers, {_mib(self.bytes_before)} -> '
            f'{_mib(self.bytes_after)}; features on {self.images} change by '
            f'{100 * self.errors[last]["rms"]:.2f} % (rms) in the last layer, cosine '
            f'{self.errors[last]["cosine"]:.5f}; at most by '
            f'{100 * self.errors[worst]["rms"]:.2f} % (layer {worst}).'
        )

    def to_dict(self) -> dict[str, Any]:
        """For a results file."""
        return {
            'how': self.how,
            'bytes_before': self.bytes_before,
            'bytes_after': self.bytes_after,
            'errors': {str(layer): dict(error) for layer, error in self.errors.items()},
        }


@torch.no_grad()
def quantize(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    how: str,
    features: Callable[[], Mapping[int, Tensor]],
    images: str = 'images',
) -> QuantizationReport:
    """Hold the linear weights of ``blocks`` in 8 bits, in place, and measure what that changes.

    Args:
        module: The encoder, for counting bytes.
        blocks: Parts of it; patches, positions and norms stay as they are.
        how: One of :data:`HOWS`.
        features: Gives tokens (B, T, D) by layer; called before and after.
        images: What they are features of, in words.

    Raises:
        ValueError: torchao is not installed, the device cannot do this, or it is done already.
    """
    blocks = list(blocks)
    linears = [m for block in blocks for m in block.modules() if _fits(m, how)]
    device = next(module.parameters()).device
    config = _config(how, device)
    if not linears:
        raise ValueError(f'{how}: the encoder has no linear layer that can be held in 8 bits.')
    if any(_packed(m.weight) for m in linears):
        raise ValueError(f'{how}: the encoder is quantised already; open it anew.')
    before, bytes_before = dict(features()), tensor_bytes(module)
    from torchao.quantization import quantize_

    for block in blocks:
        block.requires_grad_(False)
        quantize_(block, config, filter_fn=lambda m, _name: _fits(m, how))
    errors = {layer: _error(before.pop(layer), after) for layer, after in features().items()}
    return QuantizationReport(how, len(linears), bytes_before, tensor_bytes(module), errors, images)


def tensor_bytes(module: nn.Module) -> int:
    """Bytes that a module's parameters and buffers take, those of packed weights included."""
    return sum(_bytes(t) for t in [*module.parameters(), *module.buffers()])


def check_device(how: str, device: torch.device | str) -> None:
    """Refuse what a device cannot do.

    Raises:
        ValueError: It cannot; the message says what can.
    """
    device = torch.device(device)
    if how not in HOWS:
        raise ValueError(f'quantize={how!r} is not one of {", ".join(HOWS)}.')
    if how != 'fp8':
        return
    has = torch.cuda.get_device_capability(device) if device.type == 'cuda' else None
    if has is None or has < _FP8_CAPABILITY:
        what = f'{torch.cuda.get_device_name(device)} has {has[0]}.{has[1]}' if has else 'the CPU'
        raise ValueError(
            'fp8 needs a GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell), and this '
            f'is {what}: use int8.'
        )


def _config(how: str, device: torch.device) -> Any:
    check_device(how, device)
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8WeightOnlyConfig,
            PerRow,
        )
    except ImportError as error:
        raise ValueError(
            f'torchao is not installed ({error.name}): pip install mmdet_seg[quantize].'
        ) from error
    if how == 'int8':
        return Int8WeightOnlyConfig(set_inductor_config=False)
    return Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )


def _fits(module: nn.Module, how: str) -> bool:
    if not isinstance(module, nn.Linear):
        return False
    return how != 'fp8' or not any(side % _MULTIPLE for side in module.weight.shape)


def _packed(weight: Tensor) -> bool:
    return type(weight) not in (Tensor, nn.Parameter)


def _bytes(tensor: Tensor) -> int:
    if not _packed(tensor):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in names)


def _error(before: Tensor, after: Tensor) -> dict[str, float]:
    a, b = after.float(), before.float()
    rms = (a - b).square().mean().sqrt() / b.square().mean().sqrt().clamp_min(1e-12)
    return {'rms': rms.item(), 'cosine': torch.cosine_similarity(a, b, dim=-1).mean().item()}


def _mib(num_bytes: int) -> str:
    return (
        f'{num_bytes / 2**20:.0f} MiB' if num_bytes >= 10 << 20 else f'{num_bytes / 2**10:.0f} KiB'
    )
