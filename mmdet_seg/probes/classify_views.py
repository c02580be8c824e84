"""Views of labelled images for a frozen encoder: cropped, flipped, mixed; all by the seed.

Shapes: B images, S side in pixels, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mmdet_seg.datasets.loader_processes import leave_signals
from mmdet_seg.datasets.position_sampler import Draw
from mmdet_seg.datasets.seeded_dataset import seed_generators
from mmdet_seg.probes.labelled_images import LabelledImages
from mmdet_seg.probes.loading import loaded

_BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class Views:
    """How images become the encoder's input; part of the key of stored features.

    Attributes:
        size: S.
        augmented: Random resized crop and flip; False is the middle of the resized image.
        crop_ratio: S over the short side that images are resized to before the middle is cut out.
        mixup: Alpha of the beta distribution; 0 is off.
        cutmix: Likewise. With both on, each batch draws one of them.
        seed: Of all draws.
    """

    size: int
    augmented: bool = False
    crop_ratio: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    @property
    def same_each_time(self) -> bool:
        """Whether every epoch sees the same."""
        return not (self.augmented or self.mixup or self.cutmix)

    def transform(self) -> v2.Transform:
        """PIL image to (3, S, S) uint8."""
        if self.augmented:
            cut = [v2.RandomResizedCrop(self.size, interpolation=_BICUBIC)]
            cut.append(v2.RandomHorizontalFlip())
        else:
            short = round(self.size / self.crop_ratio)
            cut = [v2.Resize(short, interpolation=_BICUBIC), v2.CenterCrop(self.size)]
        return v2.Compose([*cut, v2.PILToTensor()])


class Targets(NamedTuple):
    """Up to two classes of each image and how much each counts.

    Attributes:
        classes: (B, 2) class numbers.
        weights: (B, 2) float32, sums to 1.
    """

    classes: Tensor
    weights: Tensor

    def dense(self, num_classes: int) -> Tensor:
        """(B, C) float32."""
        out = self.weights.new_zeros(len(self.classes), num_classes)
        return out.scatter_add_(1, self.classes, self.weights)


class Batch(NamedTuple):
    """Views on the CPU.

    Attributes:
        images: (B, 3, S, S), 0 to 255; float where they are mixed.
        targets: Of them.
        index: (B,) which images they are.
    """

    images: Tensor
    targets: Targets
    index: Tensor


def batches(
    images: LabelledImages, views: Views, draws: Sequence[int], batch: int, *, workers: int = 0
) -> Iterator[Batch]:
    """Views of images in order.

    Args:
        images: All of them.
        views: How they are cut; mixing is done here too, within each batch.
        draws: Which to read: an index, or a :class:`Draw`, whose position decides the cut.
        batch: B; the last batch may be smaller. Positions that are multiples of it start a batch.
        workers: Processes that read; 0 reads in this one.

    Raises:
        ValueError: An image cannot be read; the line names it.
    """
    loader = DataLoader(
        _Cut(images, views),
        batch_size=batch,
        sampler=draws,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=leave_signals,
        prefetch_factor=2 if workers else None,
    )
    for found in loaded(loader):
        if isinstance(found, str):
            raise ValueError(found)
        pixels, index, positions = found
        labels = torch.from_numpy(images.labels)[index]
        if not (views.mixup or views.cutmix):
            weights = torch.tensor([1.0, 0.0]).expand(len(labels), 2)
            yield Batch(pixels, Targets(labels[:, None].repeat(1, 2), weights), index)
            continue
        with torch.random.fork_rng(devices=[]):
            seed_generators(views.seed, int(positions[0]), 1)
            yield Batch(*mix(pixels, labels, views, len(images.classes)), index)


def mix(images: Tensor, labels: Tensor, views: Views, num_classes: int) -> tuple[Tensor, Targets]:
    """Torchvision's MixUp or CutMix, drawn from PyTorch's generator: images and targets."""
    chosen = []
    if views.mixup:
        chosen.append(v2.MixUp(alpha=views.mixup, num_classes=num_classes))
    if views.cutmix:
        chosen.append(v2.CutMix(alpha=views.cutmix, num_classes=num_classes))
    # Of whole numbers the blend would be rounded down.
    mixed, soft = v2.RandomChoice(chosen)(images.float(), labels)
    others = labels.roll(1)
    share = soft.gather(1, labels[:, None])[:, 0].where(labels != others, 1.0)
    weights = torch.stack([share, 1 - share], 1)
    return mixed, Targets(torch.stack([labels, others], 1), weights)


class _Cut(Dataset):
    def __init__(self, images: LabelledImages, views: Views) -> None:
        self.images, self.views, self.transform = images, views, views.transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: int) -> Any:
        index, position = int(draw), getattr(draw, 'position', int(draw))
        try:
            image = self.images.image(index)
        except ValueError as error:  # through a worker it would come with pages of traceback
            return str(error)
        if not self.views.augmented:
            return self.transform(image), index, position
        with torch.random.fork_rng(devices=[]):
            seed_generators(self.views.seed, position)
            return self.transform(image), index, position


def _collate(samples: list) -> Any:
    wrong = next((s for s in samples if isinstance(s, str)), None)
    if wrong is not None:
        return wrong
    pixels, index, positions = zip(*samples, strict=True)
    return torch.stack(pixels), torch.tensor(index), torch.tensor(positions)


__all__ = ['Batch', 'Draw', 'Targets', 'Views', 'batches', 'mix']
