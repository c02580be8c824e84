"""How much memory one training step takes, moment by moment, without allocating any.

The step runs for real on fake tensors, which have shapes, dtypes and storages but no memory (the
meta device behind a name: the plain meta device knows no autocast). A dispatch mode counts what is
alive after every operator, so checkpointing, autocast's copies of the weights, logits at full
resolution and whatever a head does are counted by what they do, not by formulas.

What an operator takes inside itself is not seen: a kernel's workspace, or what an operator that is
made of others sets aside in between.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdet_seg.engine.live_memory import GRADIENTS, KINDS, Alive

# Autocast on CUDA runs these in float32, on the CPU in the dtype that comes in.
_FLOAT32_ON_CUDA = ('layer_norm', 'rms_norm', 'group_norm', 'interpolate', 'softmax')
_FLOAT32_ON_CUDA += ('log_softmax', 'cross_entropy', 'nll_loss')


@dataclass(frozen=True)
class StepMemory:
    """Bytes that are alive after each operator of a forward and backward pass in one process.

    Attributes:
        alive: (operators, 4): activations, logits at the images' size with their gradients,
            autocast's copies of weights, gradients of weights.
        batch: Images.
    """

    alive: np.ndarray
    batch: int

    @property
    def gradients(self) -> np.ndarray:
        """Of the weights, after each operator."""
        return self.alive[:, GRADIENTS]

    @property
    def others(self) -> np.ndarray:
        """All but the weights' gradients, after each operator."""
        return self.alive[:, :GRADIENTS].sum(1)

    def named(self, moment: int) -> dict[str, int]:
        """Kind -> bytes at a moment, the weights' gradients left out."""
        return dict(zip(KINDS[:GRADIENTS], self.alive[moment].tolist(), strict=False))

    def at(self, batch: int, other: 'StepMemory') -> 'StepMemory':
        """The same step with another batch, on the line through this step and ``other``.

        Every operator's tensors either grow with the batch or do not depend on it.
        """
        ahead = (batch - self.batch) / (other.batch - self.batch)
        found = self.alive + ahead * (other.alive - self.alive)
        return StepMemory(np.maximum(found, 0).astype(np.int64), batch)


def trace_step(
    model: nn.Module,
    batch: int,
    crop: tuple[int, int],
    *,
    cuda: bool = True,
    autocast: torch.dtype | None = None,
) -> StepMemory:
    """Run one step of a segmentor on fake tensors.

    Args:
        model: On the meta device; it stays there.
        batch: Images.
        crop: (H, W).
        cuda: As on CUDA; False as on the CPU, where another kernel serves attention in bfloat16.
        autocast: Precision that the optimizer wrapper gives to the whole forward pass.

    Raises:
        ValueError: Its loss depends on what the images show: a detector's, or that of queries.
    """
    head = getattr(model, 'decode_head', None)
    if head is None or hasattr(head, 'num_queries'):
        raise ValueError(
            f'The memory of {type(head or model).__name__} depends on the objects in the images, '
            'which a plan does not have: plan configs/upernet_internvit.py with the same --arch '
            'and --tune for the part of the encoder.'
        )
    alive = Alive((model.decode_head.out_channels, *crop))
    with ExitStack() as stack:
        stack.enter_context(_as_accelerator(model, cuda))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        with _placed(model):
            alive.weights(model)
            images, samples = _batch(batch, crop)
            stack.enter_context(alive.gradients_of(model))
            stack.enter_context(alive)
            alive.watch((images, *(s.gt_sem_seg.data for s in samples)))
            _step(model, images, samples, autocast, cuda)
    return StepMemory(np.array(alive.history), batch)


def _step(
    model: nn.Module, images: Tensor, samples: list, autocast: torch.dtype | None, cuda: bool
) -> None:
    with _float32_on_cuda() if cuda else nullcontext():  # a block may run again in the backward
        with torch.autocast('cpu', autocast, enabled=autocast is not None):
            losses = model.loss(images, samples)
        sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()


def _float32_on_cuda() -> Any:
    """Casts what autocast casts to float32 on CUDA and leaves alone on the CPU."""

    def casting(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(func)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if torch.is_autocast_enabled('cpu'):
                args = tuple(
                    a.float() if isinstance(a, Tensor) and a.is_floating_point() else a
                    for a in args
                )
            return func(*args, **kwargs)

        return call

    return mock.patch.multiple(F, **{name: casting(getattr(F, name)) for name in _FLOAT32_ON_CUDA})


@contextmanager
def _placed(model: nn.Module) -> Iterator[None]:
    """Fake tensors for the model's while this lasts."""
    before = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in made:
            new = torch.empty(tensor.shape, dtype=tensor.dtype, device='cpu')
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            made[id(tensor)] = new
        return made[id(tensor)]

    for module, parameters, buffers in before:
        module._parameters = {k: fake(v) for k, v in parameters.items()}
        module._buffers = {k: fake(v) for k, v in buffers.items()}
    try:
        yield
    finally:
        for module, parameters, buffers in before:
            module._parameters, module._buffers = parameters, buffers


@contextmanager
def _as_accelerator(model: nn.Module, cuda: bool) -> Iterator[None]:
    """Settings of a training step: kernels of the accelerator, weights that count as loaded."""
    pending = [m for m in model.modules() if getattr(m, '_weights_pending', False)]
    attentions = [m for m in model.modules() if cuda and getattr(m, 'backend', None) == 'auto']
    model.train()
    for encoder in pending:
        encoder._weights_pending = False
    for module in attentions:
        module.backend = 'sdpa'  # what `auto` takes on CUDA
    # Statistics of a single image's pooled map: synchronised ones have those of other processes.
    with mock.patch('torch.nn.functional._verify_batch_size', return_value=None):
        try:
            yield
        finally:
            for module in attentions:
                module.backend = 'auto'
            for encoder in pending:
                encoder._weights_pending = True


def _batch(batch: int, crop: tuple[int, int]) -> tuple[Tensor, list[SegDataSample]]:
    images = torch.empty(batch, 3, *crop)
    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_shape=crop, ori_shape=crop, pad_shape=crop))
        labels = torch.zeros(1, *crop, dtype=torch.int64)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return images, samples


def plain_norms(model: nn.Module) -> nn.Module:
    """Without synchronised batch norm, which wants a process group; the memory is the same."""
    return revert_sync_batchnorm(model)
