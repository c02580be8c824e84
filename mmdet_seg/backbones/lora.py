"""LoRA on the encoder's linear layers: adapters are peft's, and no other file imports it.

Shapes: r rank; an adapted layer maps ``in`` to ``out`` channels.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdet_seg.backbones.layouts import LORA_SCALE, unwrapped, wrapped

_LAYERS = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
_ADAPTER = 'default'  # peft's name for the only one


@dataclass(frozen=True)
class Lora:
    """What ``InternViT(lora=dict(...))`` takes.

    Attributes:
        rank: Channels between the two factors.
        alpha: The adapters' product is multiplied by ``alpha / rank``; None means ``2 * rank``.
        dropout: Of the adapters' input, while training.
        targets: Layers of a block, of ``qkv``, ``proj``, ``fc1`` and ``fc2``.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: Sequence[str] = tuple(_LAYERS)

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f'lora.rank={self.rank!r} is not a positive whole number.')
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f'lora.alpha={self.alpha!r} is not positive; 2 * rank is usual.')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'lora.dropout={self.dropout!r} is not in [0, 1).')
        if isinstance(self.targets, str) or not self.targets or set(self.targets) - _LAYERS.keys():
            raise ValueError(
                f'lora.targets={self.targets!r} is not a list of {", ".join(_LAYERS)}.'
            )

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


def resolve_lora(lora: Mapping[str, Any] | Lora | None) -> Lora | None:
    """The argument of the encoder, checked.

    Raises:
        ValueError: A field that there is not, or a value that it does not take.
    """
    if lora is None or isinstance(lora, Lora):
        return lora
    if unknown := sorted(set(lora) - Lora.__dataclass_fields__.keys()):
        fields = ', '.join(Lora.__dataclass_fields__)
        raise ValueError(f'lora has {", ".join(unknown)}; it takes {fields}.')
    return Lora(**lora)


def add_adapters(encoder: nn.Module, lora: Lora, blocks: range) -> None:
    """Put adapters on ``blocks`` of an encoder on the meta device; all else stops training.

    They are held in float32 at least, whatever the weights are held in.

    Raises:
        ValueError: peft is not installed, or no block is left.
    """
    if not blocks:
        raise ValueError('lora has no block to adapt: frozen_stages leaves none before the last.')
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"LoRA needs peft: pip install 'mmdet_seg[lora]' ({error}).") from error
    layers = '|'.join(_LAYERS[t] for t in lora.targets).replace('.', r'\.')
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=rf'blocks\.({"|".join(map(str, blocks))})\.({layers})',
    )
    inject_adapter_in_model(config, encoder, _ADAPTER)
    for _, layer in adapted_layers(encoder):
        dtype = torch.promote_types(layer.base_layer.weight.dtype, torch.float32)
        layer.lora_A.to(dtype)
        layer.lora_B.to(dtype)
    encoder.register_buffer(LORA_SCALE, torch.empty((), dtype=torch.float32))


@torch.no_grad()
def reset_adapters(encoder: nn.Module) -> None:
    """Start adapters anew, with no effect, on the device of the weights."""
    for _, layer in adapted_layers(encoder):
        device = layer.base_layer.weight.device
        for factor, fill in ((layer.lora_A, _uniform), (layer.lora_B, nn.init.zeros_)):
            factor.to_empty(device=device)
            fill(factor[_ADAPTER].weight)
    scale = torch.tensor(encoder.lora.scale, dtype=torch.float32, device=device)
    encoder.register_buffer(LORA_SCALE, scale)


def _uniform(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Linear, and so as peft


def adapted_layers(encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every layer with an adapter."""
    for name, module in encoder.named_modules():
        if hasattr(module, 'lora_A') and hasattr(module, 'base_layer'):
            yield name, module


def accept_state(encoder: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Make a state dict that is about to be loaded fit an encoder with adapters.

    Names of an encoder without adapters get those that the adapted layers have here.

    Raises:
        ValueError: The state's adapters have another scale, which the encoder would not use.
    """
    scale = state.get(prefix + LORA_SCALE)
    ours = encoder.lora.scale
    # The buffer may have been rounded to half precision.
    if scale is not None and not math.isclose(float(scale), ours, rel_tol=0.01):
        raise ValueError(
            f'The adapters to load have alpha / rank = {float(scale):g}, the encoder has {ours:g}; '
            'build it with the alpha that they were trained with.'
        )
    for layer, _ in list(adapted_layers(encoder)):
        for leaf in ('weight', 'bias'):
            plain = f'{prefix}{layer}.{leaf}'
            if plain in state:
                state[wrapped(plain)] = state.pop(plain)


def adapted_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """``weight + scale * up @ down``, summed and returned in float32 at least.

    Args:
        weight: (out, in).
        down: (r, in), peft's ``lora_A``.
        up: (out, r), peft's ``lora_B``.
        scale: ``alpha / rank``.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(dtype), up.to(dtype), down.to(dtype), alpha=scale)


@torch.no_grad()
def merge_lora(encoder: nn.Module) -> nn.Module:
    """Put the adapters into the weights, in place.

    The sum is made in float32 and rounded once, to the dtype that the weights are held in.

    Args:
        encoder: An ``InternViT``, with adapters or without.

    Returns:
        The encoder: a plain one with plain names, its parameters still without gradient.
    """
    if encoder.lora is None:
        return encoder
    for name, layer in list(adapted_layers(encoder)):
        base, factors = layer.base_layer, (layer.lora_A, layer.lora_B)
        down, up = (factor[_ADAPTER].weight for factor in factors)
        base.weight.copy_(adapted_weight(base.weight, down, up, encoder.lora.scale))
        parent, _, leaf = name.rpartition('.')
        setattr(encoder.get_submodule(parent), leaf, base.train(layer.training))
    del encoder._buffers[LORA_SCALE], encoder.peft_config
    encoder.lora = None
    return encoder


def plain_targets(encoder: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Plain name -> name and tensor in the encoder, the adapters' own left out."""
    targets = encoder.state_dict(keep_vars=True)
    return {plain: (n, t) for n, t in targets.items() if (plain := unwrapped(n)) is not None}
