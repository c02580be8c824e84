"""What trains and what is frozen, as a person wants to know it before a long run."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from mmdet_seg.engine.frozen_parameters import frozen_by_name

# Parts of a ViT-Adapter around an encoder.
_ADAPTER = ('spm', 'interactions', 'level_embed', 'up', 'norm1', 'norm2', 'norm3', 'norm4')


@dataclass
class Part:
    """A part of the model: numbers that train, numbers that are frozen, and rates."""

    trained: int = 0
    frozen: int = 0
    rates: set[float] = field(default_factory=set)

    @property
    def rate(self) -> str:
        """Lowest to highest learning rate."""
        if not self.rates:
            return ''
        low, high = min(self.rates), max(self.rates)
        return f'{high:.3g}' if low == high else f'{low:.3g} .. {high:.3g}'


def parts_of(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, Part]:
    """Every part of a model; an encoder's stem and blocks are parts of their own.

    Args:
        model: With its frozen parameters hidden, before it is wrapped.
        groups: Of the optimizer.
    """
    parts: dict[str, Part] = defaultdict(Part)
    for name, numel in frozen_by_name(model):
        parts[_part(name)].frozen += numel
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    for name, parameter in model.named_parameters():
        part = parts[_part(name)]
        part.trained += parameter.numel()
        part.rates.add(rates[id(parameter)])
    return dict(parts)


def show(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Print the table on standard error."""
    table = Table(box=None, pad_edge=False)
    table.add_column('part')
    for title in ('trained', 'frozen', 'learning rate'):
        table.add_column(title, justify='right')
    parts = parts_of(model, groups)
    for name, part in parts.items():
        table.add_row(
            name, *(f'{n:,}' if n else '' for n in (part.trained, part.frozen)), part.rate
        )
    trained, frozen = (sum(getattr(p, k) for p in parts.values()) for k in ('trained', 'frozen'))
    table.add_row('all', f'{trained:,}', f'{frozen:,}' if frozen else '', '')
    Console(stderr=True).print(table)


def _part(name: str) -> str:
    words = name.split('.')
    if words[0] != 'backbone':
        return words[0]
    if words[1] in _ADAPTER:
        return 'backbone, adapter'
    return 'backbone.blocks' if 'blocks' in words[1:3] else 'backbone, stem'
