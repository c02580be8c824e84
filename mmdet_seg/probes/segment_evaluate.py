"""Validation of many probes: the encoder once per window, then one probe's logits at a time.

Shapes: (H, W) pixels of a test image, (h, w) grid of a window, D channels, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_seg.engine.per_class_iou import PerClassIoU
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.probe_bank import Probe, ProbeBank
from mmdet_seg.probes.protocols import Protocol
from mmdet_seg.probes.run_facts import hush
from mmdet_seg.probes.segment_data import SegmentData, TestImage, pad_to_patch
from mmdet_seg.probes.upsampled_loss import IGNORED
from mmdet_seg.segmentors.labels import best_class
from mmdet_seg.segmentors.sliding_windows import windows

Box = tuple[int, int, int, int]  # top, left, bottom, right
_WINDOWS_AT_ONCE = {'cpu': 2}
_OTHER_AT_ONCE = 16


@dataclass(frozen=True)
class ProbeScore:
    """What a probe reached.

    Attributes:
        scores: mIoU, mAcc and aAcc in percent.
        per_class: Class -> IoU in percent, None where it neither occurs nor is predicted.
        per_image: mIoU of every image, over the classes that occur in it or are predicted.
    """

    scores: dict[str, float]
    per_class: dict[str, float | None]
    per_image: list[float]


@torch.no_grad()
def evaluate_probes(
    bank: ProbeBank,
    encoder: FrozenEncoder,
    data: SegmentData,
    *,
    final_norm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[ProbeScore]:
    """Scores of all probes, in one pass over the validation images.

    Args:
        bank: The probes, on the encoder's device.
        encoder: Frozen.
        data: With the protocol that says how is tested.
        final_norm: As in training.
        progress: Called with images done and images to do.
    """
    hush()  # mmseg's metric logs a table
    metrics = [PerClassIoU(ignore_index=IGNORED, iou_metrics=['mIoU']) for _ in bank.probes]
    for done, image in enumerate(data.validation(), start=1):
        found = predict(bank.probes, bank, encoder, image, data.protocol, final_norm)
        for metric, label in zip(metrics, found, strict=True):
            areas = metric.intersect_and_union(label, image.label, len(data.classes), IGNORED)
            metric.results.append(areas)
        if progress:
            progress(done, data.num_val)
    return [probe_score(metric, data.classes) for metric in metrics]


@torch.no_grad()
def predict(
    probes: Sequence[Probe],
    bank: ProbeBank,
    encoder: FrozenEncoder,
    image: TestImage,
    protocol: Protocol,
    final_norm: bool = False,
) -> Iterator[Tensor]:
    """Labels of one image by every probe, at the size of its own label: (H, W) int64 on the CPU.

    Only one probe's logits are at the size of the image at a time; the others' wait at the size of
    the grid.
    """
    H, W = image.pixels.shape[1:]
    boxes = [(0, 0, H, W)]
    if protocol.test == 'slide':
        boxes = windows((H, W), (protocol.crop,) * 2, (protocol.stride,) * 2)
    limit = _WINDOWS_AT_ONCE.get(encoder.device.type, _OTHER_AT_ONCE)
    groups = list(_groups(boxes, limit))
    logits: dict[str, list[Tensor]] = {probe.spec.name: [] for probe in probes}
    for group in groups:
        crops = torch.stack([image.pixels[:, t:b, x:r] for t, x, b, r in group])
        crops = pad_to_patch(crops.to(encoder.device), encoder.patch_size, protocol.padding)
        features = encoder.features(crops, bank.layers, final_norm=final_norm)
        patches = {i: f.patches for i, f in features.items()}
        for those, maps in bank.by_layers(patches, training=False):
            for probe in those:
                if probe.spec.name in logits:
                    logits[probe.spec.name].append(probe(maps))
    for probe in probes:
        parts = logits.pop(probe.spec.name)
        total = _average(parts, groups, (H, W), encoder.patch_size, protocol.padding)
        yield best_class(total, tuple(image.label.shape), align_corners=False)[0].cpu()


def _groups(boxes: list[Box], limit: int) -> Iterator[list[Box]]:
    """Runs of boxes of one size."""
    group: list[Box] = []
    for box in boxes:
        if group and (len(group) == limit or _shape(box) != _shape(group[0])):
            yield group
            group = []
        group.append(box)
    yield group


def _shape(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _average(
    parts: list[Tensor],
    groups: list[list[Box]],
    size: tuple[int, int],
    patch_size: int,
    padding: str,
) -> Tensor:
    """A probe's logits (C, H, W) of an image, averaged where its windows overlap.

    Args:
        parts: (B, h, w, C) of every group of windows.
        groups: Where they lie.
        size: (H, W).
        patch_size: Of the encoder.
        padding: Of windows that are no multiples of it.
    """
    total = counts = None
    for boxes, cells in zip(groups, parts, strict=True):
        logits = _large(cells, _shape(boxes[0]), patch_size, padding)
        if len(boxes) == len(groups) == 1:
            return logits[0]
        if total is None:
            total = logits.new_zeros(logits.shape[1], *size)
            counts = logits.new_zeros(size)
        for (t, x, b, r), values in zip(boxes, logits, strict=True):
            total[:, t:b, x:r] += values
            counts[t:b, x:r] += 1
    return total.div_(counts)


def _large(logits: Tensor, size: tuple[int, int], patch_size: int, padding: str) -> Tensor:
    """(B, h, w, C) -> (B, C, height, width) of the windows.

    What was padded below and to the right is cut. What was padded on all sides is resized as if it
    had not been, as DINOv2's head does.
    """
    full = tuple(patch_size * n for n in logits.shape[1:3])
    target = size if padding == 'centre' else full
    large = F.interpolate(logits.permute(0, 3, 1, 2), target, mode='bilinear', align_corners=False)
    return large[:, :, : size[0], : size[1]]


def probe_score(metric: PerClassIoU, classes: Sequence[str]) -> ProbeScore:
    """The score of the images that a metric has in its ``results``."""
    metric.dataset_meta = dict(classes=tuple(classes))
    per_image = []
    for intersect, union, *_ in metric.results:
        there = union > 0
        share = intersect[there] / union[there]
        per_image.append(round(100 * float(share.mean()), 2) if there.any() else float('nan'))
    found = metric.compute_metrics(metric.results)
    scores = {k: float(found[k]) for k in ('mIoU', 'mAcc', 'aAcc')}
    return ProbeScore(scores, dict(metric.table), per_image)
