"""mmseg's EncoderDecoder around an encoder that says what its maps are.

Shapes: B images, C classes, (H, W) pixels.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder as _EncoderDecoder
from torch import Tensor

from mmdet_seg.backbones.intern_vit import FeatureSpec
from mmdet_seg.backbones.output_spec import output_spec
from mmdet_seg.registry import MODELS
from mmdet_seg.segmentors.authors_names import rename_in_place
from mmdet_seg.segmentors.labels import best_class, upscale
from mmdet_seg.segmentors.sliding_windows import new_sums, slide

# Logits of one image at its own size that are kept in the result beside the labels.
_LOGITS_BYTES = 1 << 30
_DTYPES = {None: None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@MODELS.register_module()
class EncoderDecoder(_EncoderDecoder):
    """Encoder, optional neck and heads, joined by :class:`FeatureSpec`.

    What a config leaves out is filled in: the neck's ``in_channels`` and ``in_strides`` from the
    encoder's ``output_spec()``, every head's ``in_channels`` from the spec of the maps that its
    ``in_index`` selects. What a config gives stays as given.

    ``test_cfg`` is mmseg's; sliding windows also take ``window_batch``, the windows that go through
    the model together (left out: as many as keep their logits under 512 MiB). An image's logits
    are part of the result where they take at most 1 GiB (``keep_logits=True``: always); its labels
    always are. Checkpoints of the authors' segmentors load.

    Args:
        backbone: Config of a module with ``output_spec()``.
        decode_head: Config of an mmseg head.
        neck: Config of a module with ``output_spec()``.
        auxiliary_head: Config or list of configs.
        encoder_dtype: ``'bf16'`` or ``'fp16'`` runs encoder and neck under autocast and the heads
            in float32, in training and test, as was published; None leaves it to the optimizer
            wrapper.
        kwargs: Of mmseg's ``EncoderDecoder``.

    Raises:
        ValueError: A head selects a map that there is not.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        auxiliary_head: dict[str, Any] | list[dict[str, Any]] | None = None,
        encoder_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        if encoder_dtype not in _DTYPES:
            raise ValueError(f"encoder_dtype={encoder_dtype!r} is not one of None, 'bf16', 'fp16'.")
        spec = output_spec(backbone)
        if neck is not None:
            neck = {'in_channels': [s.channels for s in spec], **neck}
            neck.setdefault('in_strides', [s.stride for s in spec])
            spec = output_spec(neck)
        heads = auxiliary_head
        if isinstance(heads, Sequence):
            heads = [fill_in_channels(head, spec) for head in heads]
        elif heads is not None:
            heads = fill_in_channels(heads, spec)
        super().__init__(
            backbone,
            fill_in_channels(decode_head, spec),
            neck=neck,
            auxiliary_head=heads,
            **kwargs,
        )
        self.encoder_dtype = _DTYPES[encoder_dtype]
        self.register_load_state_dict_pre_hook(lambda _, state, prefix, *__: rename_in_place(state))

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Maps for the heads, in float32 where ``encoder_dtype`` is set."""
        if self.encoder_dtype is None:
            return super().extract_feat(inputs)
        # Weights are used once: a cache would keep a copy of all of them, 11 GiB with 6B.
        with torch.autocast(inputs.device.type, self.encoder_dtype, cache_enabled=False):
            return tuple(x.float() for x in super().extract_feat(inputs))

    def _heads_precision(self) -> torch.autocast | nullcontext:
        """Float32 for the heads where the encoder has a precision of its own."""
        if self.encoder_dtype is None:
            return nullcontext()
        device = next(self.decode_head.parameters()).device.type
        return torch.autocast(device, enabled=False)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """mmseg's, the heads in their own precision."""
        with self._heads_precision():
            return super().loss(inputs, data_samples)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        with self._heads_precision():
            return super().encode_decode(inputs, batch_img_metas)

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Averaged logits of overlapping windows: (B, 3, H, W) -> (B, C, H, W).

        Padding that only evens out a batch is left out of the windows.
        """
        sums = new_sums(inputs, self.out_channels)
        sizes = [self._own_size(inputs, meta) for meta in batch_img_metas]
        slide(
            # A torch.Size is what tells mmseg's heads that this is a window.
            lambda x: self.encode_decode(x, [{'img_shape': x.shape[2:]}] * len(x)),
            [inputs[i, :, :h, :w] for i, (h, w) in enumerate(sizes)],
            [sums[i, :, :h, :w] for i, (h, w) in enumerate(sizes)],
            tuple(self.test_cfg.crop_size),
            tuple(self.test_cfg.stride),
            self.test_cfg.get('window_batch'),
        )
        return sums

    def whole_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of whole images: (B, 3, H, W) -> (B, C, H, W).

        Images that were padded to even out a batch go through the model without the padding.
        """
        sizes = [self._own_size(inputs, meta) for meta in batch_img_metas]
        if all(size == tuple(inputs.shape[2:]) for size in sizes):
            return super().whole_inference(inputs, batch_img_metas)
        logits = new_sums(inputs, self.out_channels)
        for i, (h, w) in enumerate(sizes):
            image = inputs[i : i + 1, :, :h, :w]
            found = self.encode_decode(image, [{'img_shape': image.shape[2:]}])
            logits[i, :, :h, :w] = found[0].to(logits.device)
        return logits

    def _own_size(self, inputs: Tensor, meta: dict) -> tuple[int, int]:
        """Height and width of an image in a padded batch, up to the next multiple of a patch."""
        _, right, _, bottom = meta.get('img_padding_size', (0, 0, 0, 0))
        P = getattr(self.backbone, 'patch_size', 1)
        H, W = inputs.shape[2:]
        return min(H, -(-(H - bottom) // P) * P), min(W, -(-(W - right) // P) * P)

    def postprocess_result(self, seg_logits: Tensor, data_samples: list | None = None) -> list:
        """Labels of every image at its own size, its logits too where there is room.

        Args:
            seg_logits: (B, C, H, W).
            data_samples: One per image, with ``ori_shape``, padding and flip.
        """
        C, keep = seg_logits.shape[1], self.test_cfg.get('keep_logits')
        if data_samples is None or C == 1:
            return super().postprocess_result(seg_logits, data_samples)
        for logits, sample in zip(seg_logits, data_samples, strict=True):
            meta = sample.metainfo
            padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
            left, right, top, bottom = padding
            logits = logits[:, top : logits.shape[1] - bottom, left : logits.shape[2] - right]
            if meta.get('flip'):
                logits = logits.flip(2 if meta['flip_direction'] == 'horizontal' else 1)
            size = tuple(meta['ori_shape'][:2])
            if keep or 4 * C * size[0] * size[1] <= _LOGITS_BYTES:
                logits = upscale(logits, size, self.align_corners)
                sample.set_data({'seg_logits': PixelData(data=logits)})
            labels = best_class(logits, size, self.align_corners)
            sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return data_samples


def fill_in_channels(head: dict[str, Any], spec: Sequence[FeatureSpec]) -> dict[str, Any]:
    """Add ``in_channels`` to a head's config where it is missing, ``in_stride`` where None."""
    asks_stride = 'in_stride' in head and head['in_stride'] is None
    if 'in_channels' in head and not asks_stride:
        return head
    index = head.get('in_index', -1)
    indices = [index] if isinstance(index, int) else list(index)
    if any(not -len(spec) <= i < len(spec) for i in indices):
        raise ValueError(
            f'in_index={index} selects a map that there is not; there are {len(spec)}: '
            f'0 .. {len(spec) - 1}.'
        )
    channels = [spec[i].channels for i in indices]
    head = {'in_channels': channels[0] if isinstance(index, int) else channels, **head}
    return {**head, 'in_stride': spec[indices[-1]].stride} if asks_stride else head
