"""Training by iterations, each of which depends on its number alone."""

import signal
from collections.abc import Iterator
from traceback import walk_tb
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch.utils.data import DataLoader

from mmdet_seg.command_line import Failure, note
from mmdet_seg.datasets.seeded_dataset import seed_generators, unreadable


@LOOPS.register_module()
class TrainLoop(IterBasedTrainLoop):
    """mmengine's loop by iterations that resumes at once and repeats exactly.

    mmengine's draws every batch of before again. Here the sampler starts at the position, and the
    generators are seeded for every iteration and process, so that a run that was killed goes on
    as if it had not been.

    Args:
        runner: Ours.
        dataloader: With a :class:`mmdet_seg.datasets.position_sampler.PositionSampler`.
        max_iters: Iterations in all.
        val_begin: First iteration after which may be validated.
        val_interval: Iterations between validations.
        dynamic_intervals: Other intervals from later iterations on, as in mmengine.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        BaseLoop.__init__(self, runner, dataloader)  # theirs would start the workers at once
        if int(max_iters) != max_iters or max_iters < 1:
            raise ValueError(f'max_iters={max_iters} is not a whole number of at least 1.')
        self._max_iters, self._max_epochs = int(max_iters), 1
        self._epoch = self._iter = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.drawn = 0  # images that all processes drew together
        self.replaced: dict[str, str] = {}  # image that cannot be used -> why
        if hasattr(self.dataloader.dataset, 'metainfo'):
            self.runner.visualizer.dataset_meta = self.dataloader.dataset.metainfo
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    def resume_at(self, iteration: int, drawn: int) -> None:
        """Go on after ``iteration`` iterations, for which ``drawn`` images were drawn."""
        self._iter, self.drawn = iteration, drawn

    def run(self) -> Any:
        """Train.

        Raises:
            ValueError: Images that cannot be used.
            mmdet_seg.command_line.Failure: A process that loads data is gone.
        """
        try:
            return self._run()
        except (RuntimeError, OSError, EOFError) as error:
            text = str(error)
            if 'images in a row cannot be used' in text:
                last = text.strip().splitlines()[-1]
                raise ValueError(last.removeprefix('RuntimeError: ')) from error
            # Said by the loader, raised wherever SIGCHLD found us, or a pipe to it that broke.
            broken = not isinstance(error, RuntimeError) and _through_loader(error)
            if 'DataLoader worker' not in text and not broken:
                raise
            # The loader's own handler would raise once more, in the middle of the way out.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise Failure(
                f'A process that loads data died after iteration {self._iter} (killed, or out of '
                'memory): lower train_dataloader.num_workers or batch_size; continue with --resume.'
            ) from error

    def _run(self) -> Any:
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        self._decide_current_val_interval()
        if self._iter and not runner.was_validated(self._iter):
            self._validate()  # the run was killed between its checkpoint and its validation
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            batch = next(batches)
            seed_generators(runner.seed, self._iter, get_rank())
            self.run_iter(batch)
            self._decide_current_val_interval()
            self._validate()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def run_iter(self, data_batch: Any) -> None:
        self.drawn += len(data_batch['data_samples']) * get_world_size()
        self._count_replaced(data_batch)
        super().run_iter(data_batch)
        files = [str(s.metainfo.get('img_path', '?')) for s in data_batch['data_samples']]
        self.runner.guard.check(files)

    def _batches(self) -> Iterator[Any]:
        # A batch sampler, as mmdet's by aspect ratio, has it inside.
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', self.dataloader.sampler)
        while True:
            sampler.start = self.drawn
            yield from self.dataloader

    def _count_replaced(self, batch: dict) -> None:
        limit = self.runner.cfg.get('unreadable_limit', 0)
        for file, why in unreadable(batch['data_samples']):
            if file in self.replaced:
                continue
            self.replaced[file] = why
            if len(self.replaced) > limit:
                raise ValueError(
                    f'{file} cannot be used ({why}), {len(self.replaced)} of at most {limit} in '
                    'this process: mend or remove it, or let more be left out with --cfg-options '
                    f'unreadable_limit={max(10, 2 * limit)}.'
                )
            note(f'Left out, {len(self.replaced)} of at most {limit}: {file} ({why}).')

    def _validate(self) -> None:
        if (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        ):
            self.runner.validate()


def _through_loader(error: BaseException) -> bool:
    """Whether an error came out of a data loader."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return any('dataloader.py' in name for name in files)
