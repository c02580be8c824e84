"""Many classification heads trained together on one pass, each exactly as if alone.

Shapes: B images, C classes.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet_seg.probes.classify_head_file import put_projector
from mmdet_seg.probes.classify_heads import (
    CLIP_HEADS,
    WITH_WEIGHTS,
    ClassificationHead,
    num_features,
)
from mmdet_seg.probes.classify_inputs import Inputs
from mmdet_seg.probes.classify_views import Targets
from mmdet_seg.probes.frozen_encoder import FrozenEncoder


@dataclass(frozen=True)
class Recipe:
    """How heads are trained: SGD with momentum 0.9, a cosine to 0.

    Attributes:
        name: Of the protocol.
        rate_per: Images of a batch that the rates are given for; they scale with the batch.
        batch: Images of a step.
        epochs: Over the training images.
        warmup_epochs: Of them, linear from 0, a factor in place of the cosine.
        nesterov: Kind of momentum.
        clip: Largest norm of a head's gradient; None does not clip.
        mixup: Alpha.
        cutmix: Alpha.
        smoothing: Of the labels.
        ema: Decay of an average of the weights that is tested in their place; None is off.
    """

    name: str
    rate_per: int
    batch: int = 1024
    epochs: float = 10.0
    warmup_epochs: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    ema: float | None = None

    def num_steps(self, num_images: int) -> int:
        """Steps of a run.

        Raises:
            ValueError: Fewer images than a batch takes.
        """
        if num_images < self.batch:
            raise ValueError(
                f'{num_images} training images do not fill a batch of {self.batch}: '
                f'--batch {max(1 << (num_images.bit_length() - 3), 2)} or so.'
            )
        return max(int(self.epochs * (num_images // self.batch)), 1)

    def factor(self, step: int, steps: int) -> float:
        """Share of the rate at a step."""
        warmup = steps * self.warmup_epochs / self.epochs
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * step / steps))


# spec/internvl.md 4.2, and dinov2/eval/linear.py.
RECIPES = {
    'internvit': Recipe(
        'internvit',
        rate_per=512,
        warmup_epochs=1.0,
        nesterov=True,
        clip=5.0,
        mixup=0.8,
        cutmix=1.0,
        smoothing=0.1,
    ),
    'dinov2': Recipe('dinov2', rate_per=256),
}


@dataclass(frozen=True)
class Probe:
    """One head.

    Attributes:
        name: Unique in a run.
        layers: Blocks, from 0, ascending.
        pooling: Of ``classify_heads.POOLINGS``.
        norm: ``bn`` or ``none``.
        lr: For ``Recipe.rate_per`` images; scaled to the batch where it is used.
        weight_decay: Of all parameters.
        seed: Of the first weights.
    """

    name: str
    layers: tuple[int, ...]
    pooling: str
    norm: str
    lr: float
    weight_decay: float = 0.0
    seed: int = 0


class HeadBank:
    """Heads with an optimizer each.

    Args:
        probes: What to train.
        recipe: How.
        encoder: That they stand on.
        num_classes: C.
        steps: Of the whole run.
        projector: Tensors of the frozen pool of ``clip_projector``.

    Raises:
        ValueError: A head that the encoder cannot carry, or no projector for it.

    Attributes:
        heads: In the order of ``probes``, in training mode.
        failed: Probe to the step at which its loss was not finite; it rests from there on.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        recipe: Recipe,
        encoder: FrozenEncoder,
        num_classes: int,
        steps: int,
        projector: dict[str, Tensor] | None = None,
    ) -> None:
        self.probes, self.recipe, self.steps = list(probes), recipe, steps
        self.num_classes, self.failed = num_classes, {}
        self.heads = [_head(p, encoder, num_classes, projector) for p in probes]
        self.averages = [copy.deepcopy(h) if recipe.ema else None for h in self.heads]
        self.optimizers = [
            torch.optim.SGD(
                [p for p in head.parameters() if p.requires_grad],
                lr=0.0,
                momentum=0.9,
                nesterov=recipe.nesterov,
                weight_decay=probe.weight_decay,
            )
            for head, probe in zip(self.heads, probes, strict=True)
        ]
        self.done = 0

    def rate(self, probe: Probe) -> float:
        """Highest rate of a probe at this batch."""
        return probe.lr * self.recipe.batch / self.recipe.rate_per

    def step(self, inputs: Inputs, targets: Targets) -> list[float]:
        """One step of every head; returns the losses, NaN of those that failed."""
        recipe = self.recipe
        wanted = targets.dense(self.num_classes)
        factor = recipe.factor(self.done, self.steps)
        losses = []
        for i, (probe, head) in enumerate(zip(self.probes, self.heads, strict=True)):
            if probe.name in self.failed:
                losses.append(None)
                continue
            scores = head(inputs.of(probe.layers, probe.pooling))
            loss = F.cross_entropy(scores, wanted, label_smoothing=recipe.smoothing)
            optimizer = self.optimizers[i]
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(optimizer.param_groups[0]['params'], recipe.clip)
            optimizer.param_groups[0]['lr'] = self.rate(probe) * factor
            optimizer.step()
            if self.averages[i] is not None:
                _average(self.averages[i], head, recipe.ema)
            losses.append(loss.detach())
        values = [math.nan if x is None else float(x) for x in losses]
        for probe, value in zip(self.probes, values, strict=True):
            if not math.isfinite(value):
                self.failed.setdefault(probe.name, self.done)
        self.done += 1
        return values

    def to_test(self) -> list[ClassificationHead]:
        """The heads that are tested, in eval mode: the averages where there are any."""
        pairs = zip(self.heads, self.averages, strict=True)
        return [(h if a is None else a).eval() for h, a in pairs]

    def train(self) -> None:
        """Back to training after a test."""
        for head in self.heads:
            head.train()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on."""
        return {
            'done': self.done,
            'failed': self.failed,
            'heads': [h.state_dict() for h in self.heads],
            'averages': [None if a is None else a.state_dict() for a in self.averages],
            'optimizers': [o.state_dict() for o in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        self.done, self.failed = state['done'], state['failed']
        for name in ('heads', 'averages', 'optimizers'):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                if mine is not None:
                    mine.load_state_dict(saved)


def _head(
    probe: Probe,
    encoder: FrozenEncoder,
    num_classes: int,
    projector: dict[str, Tensor] | None,
) -> ClassificationHead:
    width, pooled_dim = encoder.embed_dim, None
    if probe.pooling not in WITH_WEIGHTS:
        has_token = encoder.num_prefix_tokens > 0
        width = num_features(width, len(probe.layers), probe.pooling, has_token)
    frozen = probe.pooling == 'clip_projector'
    if frozen:
        if projector is None:
            raise ValueError(
                'clip_projector is a frozen pool that comes with the encoder: name the checkpoint '
                'that holds it with --projector FILE (intern_vit_6b_224px.pth).'
            )
        pooled_dim = projector['cross_attn.proj.weight'].shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(probe.seed)  # so that a head does not depend on those before it
        head = ClassificationHead(
            width,
            num_classes,
            probe.pooling,
            probe.norm,
            num_heads=CLIP_HEADS if frozen else encoder.num_heads,
            pooled_dim=pooled_dim,
        )
    if frozen:
        put_projector(head, projector)
    return head.to(encoder.device).train()


@torch.no_grad()
def _average(average: nn.Module, head: nn.Module, decay: float) -> None:
    found = head.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(found[name], 1 - decay)
        else:
            value.copy_(found[name])
