"""What all processes have to agree on before they change a weight."""

import math
import signal
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor, nn
from torch import distributed as dist


class NonFiniteLoss(ValueError):
    """The loss is not a number, again and again."""


class Guard:
    """Stands between the loss and the optimizer.

    An update whose loss is NaN or infinite in any process is left out in all of them: one such
    gradient would turn every weight into NaN, and the next checkpoint would hold it. Of an
    accumulation, the whole sum is left out, so that the later ones begin and end where they would
    have. The statistics of batch norms, which a forward pass has changed already, go back to those
    of the last loss that was finite. A request to stop, which a signal brings to each process at
    another moment, is agreed on along with it.

    Args:
        limit: Updates left out in a row before :meth:`check` gives up; 0 never does.

    Attributes:
        in_a_row: Updates that were left out, up to now and without one in between.
        skipped: Updates that were left out since the start.
        loss: The last one, mean of all processes.
        finite_here: Whether this process's own loss was finite the last time.
        stop_requested: Number of a signal that this process has received, 0 without.
        stop_agreed: Number of a signal that some process had received before the last update.
    """

    def __init__(self, limit: int = 3) -> None:
        if limit < 0:
            raise ValueError(f'nonfinite_limit={limit} is not 0 (go on for ever) or more.')
        self.limit = limit
        self.in_a_row = self.skipped = 0
        self.loss = math.nan
        self.finite_here = True
        self.stop_requested = self.stop_agreed = 0
        self._spoiled = False  # the sum of gradients that is being accumulated
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []

    def protect(self, optim_wrapper: Any, model: nn.Module, accumulate: int = 1) -> None:
        """Put the guard before ``update_params``, whatever the wrapper's class.

        Args:
            optim_wrapper: mmengine's, or one like it.
            model: The bare model, with the weights that it starts from.
            accumulate: Steps per update.
        """
        names = ('running_mean', 'running_var')
        found = (getattr(module, name, None) for module in model.modules() for name in names)
        self._statistics = [x for x in found if isinstance(x, Tensor)]
        self._kept = [x.clone() for x in self._statistics]
        update: Callable[..., None] = optim_wrapper.update_params
        step: Callable[..., None] = optim_wrapper.step

        def update_params(loss: Tensor, **kwargs: Any) -> None:
            finite = self.agree(loss)
            if finite:
                update(loss, **kwargs)
            elif accumulate > 1:
                # Counted as any other. DeepSpeed leaves out by itself what has a NaN in its norm.
                self._spoiled = True
                update(loss * math.nan, **kwargs)
            self._keep_statistics(finite)  # not before: the backward pass reads them

        def step_if_whole(**kwargs: Any) -> None:
            if not self._spoiled:
                step(**kwargs)
            self._spoiled = False

        optim_wrapper.update_params, optim_wrapper.step = update_params, step_if_whole

    @torch.no_grad()
    def _keep_statistics(self, finite: bool) -> None:
        pairs = (self._kept, self._statistics) if finite else (self._statistics, self._kept)
        if self._kept:
            torch._foreach_copy_(*pairs)

    def agree(self, loss: Tensor) -> bool:
        """Whether the loss is finite everywhere; counts those that are not."""
        self.loss = loss.item()
        finite = self.finite_here = math.isfinite(self.loss)
        stop = self.stop_requested
        if dist.is_initialized() and dist.get_world_size() > 1:
            # On the CPU, so that the answer does not wait in a queue behind the gradients.
            votes = torch.tensor(
                [self.loss, not finite, stop == signal.SIGINT, stop == signal.SIGTERM],
                dtype=torch.float64,
            )
            dist.all_reduce(votes)
            total, bad, interrupts, terminations = votes.tolist()
            self.loss, finite = total / dist.get_world_size(), not bad
            stop = signal.SIGTERM if terminations else signal.SIGINT if interrupts else 0
        self.stop_agreed = int(stop)
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.skipped += not finite
        return finite

    def check(self, files: list[str]) -> None:
        """Give up where the limit is reached.

        Args:
            files: Of this process's last batch.

        Raises:
            NonFiniteLoss: Names the files.
        """
        if self.limit and self.in_a_row >= self.limit:
            found = all_gather_object([] if self.finite_here else files)
            files = [x for part in found for x in part]
            raise NonFiniteLoss(
                f'The loss was not finite {self.in_a_row} times in a row; no weight was changed by '
                f'it. The last batch: {", ".join(files) or "files unknown"}. Lower the rate '
                '(optim_wrapper.optimizer.lr), clip gradients (optim_wrapper.clip_grad), look at '
                'these files, or raise nonfinite_limit (0: leave such updates out for ever).'
            )
