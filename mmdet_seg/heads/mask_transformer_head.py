"""The mask transformer as a head of mmseg and of mmdet, with mmdet's matching and losses.

Shapes: B images, Q queries, C classes, (H, W) pixels of the input, P stride.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import TASK_UTILS
from mmseg.models.decode_heads import Mask2FormerHead
from torch import Tensor, nn

from mmdet_seg.backbones.split_vit import OpenTokens
from mmdet_seg.heads.mask_transformer import MaskTransformer, Prediction
from mmdet_seg.heads.mask_transformer_decoder import LateralDecoder
from mmdet_seg.registry import MODELS

_LOSSES = dict(mask=5.0, dice=5.0, cls=2.0, no_object=0.1)
_POINTS = dict(num_points=12544, oversample_ratio=3.0, importance_sample_ratio=0.75)


@MODELS.register_module()
class MaskTransformerHead(Mask2FormerHead):
    """Encoder-only masks for semantic segmentation.

    On a :class:`mmdet_seg.backbones.SplitInternViT` the queries pass the encoder's last blocks
    (EoMT). With ``decoder`` they pass blocks of the head's own over the maps of a frozen encoder
    (PMT).

    Shapes::

        x       one OpenTokens, or with ``decoder`` maps (B, D, H / P, W / P)
        result  (B, C, H, W): classes' probabilities, weighted by masks and summed over queries

    Args:
        in_channels: D, or one per map; the segmentor fills it from the encoder.
        in_stride: P; likewise, where it is None.
        num_classes: C.
        num_queries: Q.
        in_index: Maps of the encoder that are used.
        decoder: Arguments of :class:`LateralDecoder`.
        transformer: Further arguments of :class:`MaskTransformer`.
        loss_weights: Of ``mask``, ``dice`` and ``cls``, and of the class ``no_object``.
        points: ``num_points`` that matching and mask losses look at, ``oversample_ratio`` and
            ``importance_sample_ratio``.
        align_corners: Of the resizing of results.
        ignore_index: Label that is no class.

    Raises:
        ValueError: Loss weights or points of other names; mmdet is not installed.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int,
        *,
        num_classes: int,
        num_queries: int = 100,
        in_index: int | Sequence[int] = -1,
        decoder: dict[str, Any] | None = None,
        transformer: dict[str, Any] | None = None,
        loss_weights: dict[str, float] | None = None,
        points: dict[str, float] | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        # mmdet's builds a pixel decoder; what is used of it are its targets and losses.
        BaseModule.__init__(self, init_cfg)
        if not hasattr(Mask2FormerHead, 'loss_by_feat'):
            raise ValueError(
                f'{type(self).__name__} needs mmdet, which is not installed: '
                'pip install mmdet_seg[det]'
            )
        channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        self.num_classes = self.out_channels = num_classes
        self.num_queries = num_queries
        self.in_index = [in_index] if isinstance(in_index, int) else list(in_index)
        self.in_stride = in_stride
        self.align_corners, self.ignore_index = align_corners, ignore_index
        self.decoder = None if decoder is None else LateralDecoder(channels, **decoder)
        self.transformer = MaskTransformer(
            channels[-1], num_classes, num_queries, in_stride, **(transformer or {})
        )
        self._build_losses(
            _complete('loss_weights', loss_weights, _LOSSES), _complete('points', points, _POINTS)
        )

    def _build_losses(self, weights: dict[str, float], points: dict[str, float]) -> None:
        self.num_points = int(points['num_points'])
        self.oversample_ratio = points['oversample_ratio']
        self.importance_sample_ratio = points['importance_sample_ratio']
        mask, dice, cls = weights['mask'], weights['dice'], weights['cls']
        costs = [
            dict(type='mmdet.ClassificationCost', weight=cls),
            dict(type='mmdet.CrossEntropyLossCost', weight=mask, use_sigmoid=True),
            dict(type='mmdet.DiceCost', weight=dice, pred_act=True, eps=1.0),
        ]
        self.assigner = TASK_UTILS.build(dict(type='mmdet.HungarianAssigner', match_costs=costs))
        self.sampler = TASK_UTILS.build(
            dict(type='mmdet.MaskPseudoSampler'), default_args=dict(context=self)
        )
        self.class_weight = [1.0] * self.num_classes + [weights['no_object']]
        entropy = dict(type='mmdet.CrossEntropyLoss', reduction='mean')
        self.loss_cls = MODELS.build(
            dict(**entropy, loss_weight=cls, class_weight=self.class_weight)
        )
        self.loss_mask = MODELS.build(dict(**entropy, loss_weight=mask, use_sigmoid=True))
        self.loss_dice = MODELS.build(
            dict(
                type='mmdet.DiceLoss',
                use_sigmoid=True,
                activate=True,
                naive_dice=True,
                eps=1.0,
                loss_weight=dice,
            )
        )

    @property
    def cls_embed(self) -> nn.Linear:
        """The classifier, under mmdet's name."""
        return self.transformer.cls_embed

    def init_weights(self) -> None:
        """As mmengine's; mmdet's would go for parts that are not here."""
        BaseModule.init_weights(self)

    def forward(
        self, x: Sequence[Tensor | OpenTokens], data_samples: Any = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Class and mask logits of every prediction, the last one's last.

        Returns:
            (B, Q, C + 1) each and (B, Q, 2**U H / P, 2**U W / P) each.
        """
        maps = [x[i] for i in self.in_index]
        if self.decoder is None:
            (seen,) = maps
            found = self.transformer(seen.tokens, seen.grid, seen.num_prefix_tokens, seen.stages)
        else:
            tokens, stages = self.decoder(maps)
            found = self.transformer(tokens, tuple(maps[0].shape[2:]), 0, stages)
        return [p[0] for p in found], [p[1] for p in found]

    def loss_by_feat(
        self,
        all_cls_scores: Sequence[Tensor],
        all_mask_preds: Sequence[Tensor],
        batch_gt_instances: list,
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """mmdet's, in float32: its sums over points have too many terms for half precision."""
        scores = [x.float() for x in all_cls_scores]
        masks = [x.float() for x in all_mask_preds]
        with torch.autocast(scores[0].device.type, enabled=False):
            return super().loss_by_feat(scores, masks, batch_gt_instances, batch_img_metas)

    def segment(self, x: Sequence[Tensor | OpenTokens]) -> Tensor:
        """Classes' scores of every pixel of the input: (B, C, H, W)."""
        scores, masks = self._last(x)
        return torch.einsum('bqc,bqhw->bchw', scores.softmax(-1)[..., :-1], masks.sigmoid())

    def predict(
        self, x: Sequence[Tensor | OpenTokens], batch_img_metas: list[dict], test_cfg: Any
    ) -> Tensor:
        """What :meth:`segment` gives, as mmseg asks for it."""
        return self.segment(x)

    def _last(self, x: Sequence[Tensor | OpenTokens]) -> Prediction:
        """The last prediction in float32, masks at the input's size."""
        scores, masks = (found[-1].float() for found in self(x))
        doubled = 2 ** len(self.transformer.upscale)
        size = [side * self.in_stride // doubled for side in masks.shape[2:]]
        masks = nn.functional.interpolate(
            masks, size, mode='bilinear', align_corners=self.align_corners
        )
        return scores, masks


@MODELS.register_module()
class PanopticMaskTransformerHead(MaskTransformerHead):
    """The same for instances and panoptic segments, as the head of mmdet's ``MaskFormer``.

    Args:
        in_channels: See :class:`MaskTransformerHead`.
        in_stride: Likewise.
        num_things_classes: Classes of countable objects; they come first.
        num_stuff_classes: Classes of the rest; 0 for instances alone.
        num_queries: Q.
        train_cfg: Of the detector; not used.
        test_cfg: Of the detector; not used.
        kwargs: Of :class:`MaskTransformerHead`.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int,
        *,
        num_things_classes: int,
        num_stuff_classes: int,
        num_queries: int = 200,
        train_cfg: Any = None,
        test_cfg: Any = None,
        **kwargs: Any,
    ) -> None:
        total = num_things_classes + num_stuff_classes
        super().__init__(
            in_channels, in_stride, num_classes=total, num_queries=num_queries, **kwargs
        )
        self.num_things_classes, self.num_stuff_classes = num_things_classes, num_stuff_classes
        self.train_cfg, self.test_cfg = train_cfg, test_cfg

    def loss(self, x: Sequence[Tensor | OpenTokens], batch_data_samples: list) -> dict[str, Tensor]:
        """mmdet's: instances, and the stuff of the semantic map."""
        return super(Mask2FormerHead, self).loss(x, batch_data_samples)

    def predict(self, x: Sequence[Tensor | OpenTokens], batch_data_samples: list) -> Prediction:
        """Class logits (B, Q, C + 1) and mask logits (B, Q, H, W), for mmdet's fusion head."""
        return self._last(x)


def _complete(
    name: str, given: dict[str, float] | None, defaults: dict[str, float]
) -> dict[str, float]:
    if unknown := sorted(set(given or {}) - set(defaults)):
        raise ValueError(f'{name} has {", ".join(unknown)}; there are {", ".join(defaults)}.')
    return {**defaults, **(given or {})}
