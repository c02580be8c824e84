"""Many linear probes on the maps of one pass, each as if it were alone.

Shapes: B images, (h, w) grid of N = h * w cells, D channels of a map, L layers of a probe, C
classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_seg.probes.protocols import BN_EPS, BN_MOMENTUM

NORMS = ('bn', 'ln', 'none')
_LN_EPS = 1e-6


@dataclass(frozen=True)
class ProbeSpec:
    """One probe.

    Attributes:
        layers: Blocks from 0; maps of several are concatenated.
        norm: ``bn`` batch norm of every channel, ``ln`` layer norm of every token (of each map,
            without parameters), ``none``.
        lr: Rate after the warm-up.
        weight_decay: Of all of its parameters.
        seed: Of its first weights and of its dropout.
        dropout: Share of channels that is taken out before the norm.
        init_std: Of the first weights.
    """

    layers: tuple[int, ...]
    norm: str = 'bn'
    lr: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0
    dropout: float = 0.0
    init_std: float = 0.01

    @property
    def name(self) -> str:
        """Unique in a grid, fit for files."""
        layers = '+'.join(str(layer) for layer in self.layers)
        rates = f'lr{self.lr:g}-wd{self.weight_decay:g}'
        return f'layer{layers}-{self.norm}-{rates}-seed{self.seed}'


@dataclass(frozen=True)
class LayerMap:
    """One block's map in float32, and what all probes on it share.

    Attributes:
        cells: (B, N, D).
        grid: (h, w).
        standard: (B, N, D) with mean 0 and variance 1 over the batch; None where no probe asks.
        mean: (D,) over the batch.
        variance: (D,) over the batch, biased.
        image_mean: (B, D).
        image_variance: (B, D), biased.
        normed: (B, N, D) after layer norm; None where no probe asks.
    """

    cells: Tensor
    grid: tuple[int, int]
    standard: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    image_mean: Tensor | None = None
    image_variance: Tensor | None = None
    normed: Tensor | None = None


class Probe(nn.Module):
    """Norm and 1x1 convolution.

    Args:
        spec: What it is.
        embed_dim: D of a map.
        num_classes: C.
    """

    def __init__(self, spec: ProbeSpec, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.spec, self.embed_dim = spec, embed_dim
        width = embed_dim * len(spec.layers)
        generator = torch.Generator().manual_seed(spec.seed)
        weight = torch.empty(num_classes, width).normal_(0, spec.init_std, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        if spec.norm == 'bn':
            self.norm_weight = nn.Parameter(torch.ones(width))
            self.norm_bias = nn.Parameter(torch.zeros(width))
            self.register_buffer('running_mean', torch.zeros(width))
            self.register_buffer('running_var', torch.ones(width))

    def forward(self, maps: Mapping[int, LayerMap], step: int | None = None) -> Tensor:
        """Logits: maps of its layers -> (B, h, w, C).

        Args:
            maps: Of the blocks, from :meth:`ProbeBank.prepare`.
            step: Number of the training step, of which dropout is a function; None is a test.
        """
        logits, masks = None, self._masks(maps, step)
        for i, layer in enumerate(self.spec.layers):
            part = slice(i * self.embed_dim, (i + 1) * self.embed_dim)
            found = self._logits(maps[layer], part, masks, step is not None)
            logits = found if logits is None else logits + found
        grid = maps[self.spec.layers[0]].grid
        return (logits + self.bias).unflatten(1, grid)

    def _logits(self, at: LayerMap, part: slice, masks: Tensor | None, training: bool) -> Tensor:
        weight, mask = self.weight[:, part], None if masks is None else masks[:, part]
        if self.spec.norm != 'bn':
            x = at.cells if self.spec.norm == 'none' else at.normed
            if mask is None:
                return F.linear(x, weight)
            return torch.bmm(x, (weight * mask[:, None]).transpose(1, 2))
        gain, shift = self.norm_weight[part], self.norm_bias[part]
        if not training:
            scale = gain * torch.rsqrt(self.running_var[part] + BN_EPS)
            return F.linear(at.cells - self.running_mean[part], weight * scale, weight @ shift)
        if mask is None:
            self._track(part, at.mean, at.variance, at.cells.shape[0] * at.cells.shape[1])
            return F.linear(at.standard, weight * gain, weight @ shift)
        # The norm comes after the dropout. What it would find in the map that was masked follows
        # from what is known of the images' maps; the masked maps themselves are never made.
        mean = (mask * at.image_mean).mean(0)
        between = (mask * at.image_mean - mean).square().mean(0)
        variance = (mask.square() * at.image_variance).mean(0) + between
        self._track(part, mean, variance, at.cells.shape[0] * at.cells.shape[1])
        inverse = torch.rsqrt(variance + BN_EPS)
        scale = gain * (inverse * mask * torch.sqrt(at.variance + BN_EPS))  # (B, D)
        offset = gain * ((mask * at.mean - mean) * inverse) + shift  # (B, D)
        mixed = torch.bmm(at.standard, (weight * scale[:, None]).transpose(1, 2))
        return mixed + F.linear(offset, weight)[:, None]

    @torch.no_grad()
    def _track(self, part: slice, mean: Tensor, variance: Tensor, number: int) -> None:
        unbiased = variance * (number / max(number - 1, 1))
        self.running_mean[part].lerp_(mean, BN_MOMENTUM)
        self.running_var[part].lerp_(unbiased, BN_MOMENTUM)

    def _masks(self, maps: Mapping[int, LayerMap], step: int | None) -> Tensor | None:
        """(B, L * D) of 0 and 1 / (1 - dropout), a function of seed and step."""
        if step is None or not self.spec.dropout:
            return None
        cells = maps[self.spec.layers[0]].cells
        words = np.random.SeedSequence([self.spec.seed, step]).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
        drawn = torch.rand(len(cells), self.weight.shape[1], generator=generator)
        kept = (drawn >= self.spec.dropout).float() / (1 - self.spec.dropout)
        return kept.to(cells.device)


class ProbeBank(nn.Module):
    """Probes that train together.

    Args:
        specs: One per probe.
        embed_dim: D.
        num_classes: C.

    Raises:
        ValueError: Two probes are the same, or a norm that there is not.
    """

    def __init__(self, specs: Sequence[ProbeSpec], embed_dim: int, num_classes: int) -> None:
        super().__init__()
        names = [spec.name for spec in specs]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f'{twice[0]} is asked for more than once; give every value once.')
        for spec in specs:
            if spec.norm not in NORMS:
                raise ValueError(f'norm {spec.norm!r} is not one of {", ".join(NORMS)}.')
        self.specs = tuple(specs)
        self.embed_dim, self.num_classes = embed_dim, num_classes
        self.probes = nn.ModuleList(Probe(spec, embed_dim, num_classes) for spec in specs)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks that any probe reads, ascending."""
        return tuple(sorted({layer for spec in self.specs for layer in spec.layers}))

    def by_layers(
        self, patches: Mapping[int, Tensor], training: bool
    ) -> Iterator[tuple[list[Probe], dict[int, LayerMap]]]:
        """Probes that read the same blocks, with what they need; one group's maps at a time.

        Args:
            patches: Block -> (B, D, h, w), any float dtype.
            training: With the statistics of the batch.
        """
        groups: dict[tuple[int, ...], list[Probe]] = {}
        for probe in self.probes:
            groups.setdefault(probe.spec.layers, []).append(probe)
        for layers, probes in groups.items():
            yield probes, self.prepare(patches, training, layers)

    @torch.no_grad()
    def prepare(
        self,
        patches: Mapping[int, Tensor],
        training: bool,
        layers: Sequence[int] | None = None,
    ) -> dict[int, LayerMap]:
        """What the probes need of the blocks' maps, each thing once.

        Args:
            patches: Block -> (B, D, h, w), any float dtype.
            training: With the statistics of the batch.
            layers: Of these blocks only; None is all.
        """
        asked = {(layer, spec.norm) for spec in self.specs for layer in spec.layers}
        masked = any(spec.dropout and spec.norm == 'bn' for spec in self.specs)
        maps = {}
        for layer in self.layers if layers is None else layers:
            grid = tuple(patches[layer].shape[2:])
            cells = patches[layer].flatten(2).transpose(1, 2).float().contiguous()
            fields: dict[str, Tensor] = {}
            if (layer, 'ln') in asked:
                fields['normed'] = F.layer_norm(cells, cells.shape[-1:], eps=_LN_EPS)
            if training and (layer, 'bn') in asked:
                variance, mean = torch.var_mean(cells, dim=(0, 1), correction=0)
                standard = (cells - mean) * torch.rsqrt(variance + BN_EPS)
                fields |= dict(mean=mean, variance=variance, standard=standard)
            if training and masked:
                spread, middle = torch.var_mean(cells, dim=1, correction=0)
                fields |= dict(image_mean=middle, image_variance=spread)
            maps[layer] = LayerMap(cells, grid, **fields)
        return maps
