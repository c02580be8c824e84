"""Training of many probes: one pass of the encoder a batch, one backward pass a probe.

Shapes: B images, (H, W) pixels of the labels, (h, w) grid, D channels.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.safetensors_stream import TensorEntry
from mmdet_seg.probes.probe_bank import LayerMap, Probe, ProbeBank
from mmdet_seg.probes.protocols import ADAM_BETAS, SGD_MOMENTUM, Protocol, rate_factor
from mmdet_seg.probes.upsampled_loss import Labels, upsampled_cross_entropy

_LOOK_EVERY = 10  # steps between looks at the losses: each waits for the device


class ProbeTrainer:
    """Probes with their optimizers; what a probe does depends on nothing that the others do.

    Args:
        bank: The probes, on their device.
        protocol: Optimizer, schedule and loss.

    Attributes:
        step: Steps that were done.
        losses: Probe name -> [[step, loss], ...], every tenth step.
        scores: Probe name -> [[step, mIoU], ...], of validations on the way.
        stopped: Probe name -> step at which its loss was no longer finite.
    """

    def __init__(self, bank: ProbeBank, protocol: Protocol) -> None:
        self.bank, self.protocol, self.step = bank, protocol, 0
        self.optimizers = {p.spec.name: _optimizer(p, protocol) for p in bank.probes}
        self.losses: dict[str, list[list[float]]] = {spec.name: [] for spec in bank.specs}
        self.scores: dict[str, list[list[float]]] = {spec.name: [] for spec in bank.specs}
        self.stopped: dict[str, int] = {}

    def train_step(self, patches: Mapping[int, Tensor], labels: Tensor) -> None:
        """One update of every probe.

        Args:
            patches: Block -> (B, D, h, w) of the encoder.
            labels: (B, H, W) int64 on the same device, 255 where a pixel does not count.
        """
        grid = tuple(patches[self.bank.layers[0]].shape[2:])
        shared = Labels(labels, grid, self.bank.num_classes, all_pixels=self.protocol.all_pixels)
        found = []
        for probes, maps in self.bank.by_layers(patches, training=True):
            for probe in probes:
                if probe.spec.name not in self.stopped:
                    found.append((probe.spec.name, self._update(probe, maps, shared)))
        if self.step % _LOOK_EVERY == 0 or self.step + 1 == self.protocol.iters:
            self._look(found)
        self.step += 1

    def _update(self, probe: Probe, maps: dict[int, LayerMap], labels: Labels) -> Tensor:
        """One step of one probe; its loss."""
        loss = upsampled_cross_entropy(probe(maps, self.step), labels)
        optimizer = self.optimizers[probe.spec.name]
        optimizer.zero_grad()
        loss.backward()
        rate = probe.spec.lr * rate_factor(self.protocol, self.step)
        optimizer.param_groups[0]['lr'] = rate
        optimizer.step()
        return loss.detach()

    def _look(self, found: list[tuple[str, Tensor]]) -> None:
        if not found:
            return
        values = torch.stack([loss for _, loss in found]).tolist()
        for (name, _), value in zip(found, values, strict=True):
            if math.isfinite(value):
                self.losses[name].append([self.step + 1, round(value, 5)])
            else:
                self.stopped[name] = self.step

    def text(self) -> str:
        """Losses, from the best probe's to the worst's."""
        last = [values[-1][1] for values in self.losses.values() if values]
        if not last:
            return ''
        shown = f'loss {min(last):.3f}' + (f' .. {max(last):.3f}' if len(last) > 1 else '')
        return shown + (f', {len(self.stopped)} not finite' if self.stopped else '')

    # -- state -----------------------------------------------------------------------------------

    def tensors(self) -> dict[str, list[TensorEntry]]:
        """What a checkpoint holds: the probes, and their optimizers' states."""
        model, states = [], []
        for probe in self.bank.probes:
            name = probe.spec.name
            optimizer = self.optimizers[name]
            model += [_entry(f'{name}|{k}', v) for k, v in probe.state_dict().items()]
            for key, parameter in probe.named_parameters():
                for kind, value in optimizer.state.get(parameter, {}).items():
                    states.append(_entry(f'{name}|{key}|{kind}', torch.as_tensor(value)))
        return {'model': model, **({'optimizer': states} if states else {})}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        curves = {'losses': self.losses, 'scores': self.scores}
        return {'step': self.step, **curves, 'stopped': self.stopped}

    def load(self, read: Callable[[str], Any], facts: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            read: Kind of tensors (``model``, ``optimizer``) -> pairs of name and tensor.
            facts: From :meth:`facts`.
        """
        model, states = (dict(read(kind)) for kind in ('model', 'optimizer'))
        for probe in self.bank.probes:
            name = probe.spec.name
            optimizer = self.optimizers[name]
            probe.load_state_dict({k: model[f'{name}|{k}'] for k in probe.state_dict()})
            for key, parameter in probe.named_parameters():
                prefix = f'{name}|{key}|'
                found = {
                    k.removeprefix(prefix): v for k, v in states.items() if k.startswith(prefix)
                }
                if found:
                    # Counters stay on the CPU.
                    optimizer.state[parameter] = {
                        k: v.to(parameter.device) if v.ndim else v for k, v in found.items()
                    }
        self.step = facts['step']
        self.losses = {k: list(v) for k, v in facts['losses'].items()}
        self.scores = {k: list(v) for k, v in facts['scores'].items()}
        self.stopped = dict(facts['stopped'])


def _optimizer(probe: Probe, protocol: Protocol) -> torch.optim.Optimizer:
    settings = dict(lr=probe.spec.lr, weight_decay=probe.spec.weight_decay)
    parameters = list(probe.parameters())
    if protocol.optimizer == 'sgd':
        return torch.optim.SGD(parameters, momentum=SGD_MOMENTUM, **settings)
    return torch.optim.AdamW(parameters, betas=ADAM_BETAS, **settings)


def _entry(name: str, value: Tensor) -> TensorEntry:
    value = value.detach()
    return TensorEntry(name, tuple(value.shape), value.dtype, lambda: value.cpu())
