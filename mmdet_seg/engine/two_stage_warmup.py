"""A schedule that lets the heads settle before the encoder starts to move."""

from typing import Any

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class TwoStageWarmupPolyLR(_ParamScheduler):
    """Linear warm-up of the heads, then of the encoder, each followed by a polynomial to zero.

    The encoder's groups are those marked ``'encoder': True``
    (:class:`LayerDecayOptimWrapperConstructor` with ``apart=True``); their rate is zero while the
    heads warm up.

    Args:
        optimizer: Whose groups are set.
        head_warmup: Iterations.
        encoder_warmup: Iterations, after the heads'.
        power: Of the polynomial.
        end: Iterations in all; the runner fills it in.
        kwargs: Of mmengine's schedulers.

    Raises:
        ValueError: A warm-up that is longer than the training, or no group that is marked.

    Source:
        EoMT, https://arxiv.org/abs/2503.19108.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        head_warmup: int = 500,
        encoder_warmup: int = 1000,
        power: float = 0.9,
        end: int,
        **kwargs: Any,
    ) -> None:
        if head_warmup + encoder_warmup >= end:
            raise ValueError(
                f'head_warmup={head_warmup} and encoder_warmup={encoder_warmup} take longer than '
                f'the training of {end} iterations: lower them.'
            )
        if not any('encoder' in group for group in optimizer.param_groups):
            raise ValueError(
                "TwoStageWarmupPolyLR finds no group marked as the encoder's: set "
                'optim_wrapper.paramwise_cfg.apart=True.'
            )
        self.warmups = (head_warmup, encoder_warmup)
        self.power = power
        kwargs.pop('epoch_length', None)
        super().__init__(optimizer, 'lr', end=end, **{'by_epoch': False, **kwargs})

    def _get_value(self) -> list[float]:
        head, encoder = (self._factor(inside) for inside in (False, True))
        groups = zip(self.base_values, self.optimizer.param_groups, strict=True)
        return [base * (encoder if group.get('encoder') else head) for base, group in groups]

    def _factor(self, encoder: bool) -> float:
        """Of the base rate at the current iteration."""
        start, length = (self.warmups[0], self.warmups[1]) if encoder else (0, self.warmups[0])
        done = self.last_step - start
        if done < 0:
            return 0.0
        if done < length:
            return done / length
        left = max(self.end - start - length, 1)
        return max(1.0 - (done - length) / left, 0.0) ** self.power
