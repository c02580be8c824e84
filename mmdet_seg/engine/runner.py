"""mmengine's Runner: quiet, with a strategy, and with checkpoints that are complete or absent."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner as _Runner
from torch import nn
from torch.utils.data import DataLoader

from mmdet_seg.command_line import Failure, note
from mmdet_seg.datasets.loader_processes import start_loading
from mmdet_seg.datasets.position_sampler import PositionSampler
from mmdet_seg.datasets.seeded_dataset import SeededDataset
from mmdet_seg.engine import parameter_table
from mmdet_seg.engine.checkpoint import load_folder
from mmdet_seg.engine.checkpoint_folder import CheckpointFolder, NotSaved, is_folder, open_folder
from mmdet_seg.engine.checkpoint_hook import CheckpointHook
from mmdet_seg.engine.compiled_blocks import compile_blocks
from mmdet_seg.engine.config_mistakes import one_line_mistakes
from mmdet_seg.engine.ema import EmaHook, TrainedEma
from mmdet_seg.engine.guard import Guard
from mmdet_seg.engine.interrupt_hook import InterruptHook, ValidationLeft
from mmdet_seg.engine.preflight import check_classes
from mmdet_seg.engine.run_state import (
    check_position,
    encoder_identity,
    plain_meta,
    resume_states,
    save_run,
)
from mmdet_seg.engine.start_weights import resumed_folder, start_weights
from mmdet_seg.engine.strategies import Strategy, build_strategy
from mmdet_seg.engine.train_loop import TrainLoop
from mmdet_seg.ops.sync_batch_norm import sync_on_cpu

HISTORY = 'history_of_validations'  # in the message hub; `val...` would show up in log lines


def build_runner(cfg: Config) -> 'Runner':
    """Build a runner; what a config gets wrong becomes one line.

    Raises:
        ValueError: A type that is not registered, or arguments that a class does not take.
    """
    with one_line_mistakes(cfg):
        return Runner.from_cfg(cfg)


class Runner(_Runner):
    """Logs to ``<work_dir>/run.log``; the terminal shows warnings and what the hooks print.

    Where weights live is the strategy's matter (:mod:`mmdet_seg.engine.strategies`).

    Attributes:
        strategy: Of the training.
        guard: What all processes agree on before they change a weight.
        ema: Moving average of what trains, None without.
        interrupted: Number of the signal that ended training early, 0 without.
        resumed_from: The checkpoint that training went on from.
        encoder_identity: Which frozen encoder the checkpoints belong to but do not hold.
        unsaved: Why the last checkpoint could not be written, None if it was.
    """

    strategy: Strategy
    guard: Guard
    ema: Any = None
    interrupted: int = 0
    resumed_from: Path | None = None
    encoder_identity: dict[str, Any] | None = None
    unsaved: str | None = None

    # -- what is built ---------------------------------------------------------------------------

    def build_logger(
        self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        log_file = log_file or str(Path(self.work_dir) / 'run.log')
        logging.raiseExceptions = False  # a log on a full disk is not worth a traceback per line
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Choose its batch norms; the strategy places and wraps it when it has its weights."""
        if model_wrapper_cfg is not None:
            raise ValueError(
                'model_wrapper_cfg does not go with strategies; choose one with --strategy.'
            )
        if not self.distributed:
            return revert_sync_batchnorm(model)
        if kind := self.cfg.get('sync_bn'):
            model = convert_sync_batchnorm(model, kind)
        return sync_on_cpu(model) if get_device() == 'cpu' else model

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As mmengine's, with our checkpoint hook in the place of its."""
        hooks = dict(hooks or {})
        checkpoint = dict(hooks.get('checkpoint') or {'interval': 1})
        if _name(checkpoint.get('type', 'CheckpointHook')) == 'CheckpointHook':
            hooks['checkpoint'] = {**checkpoint, 'type': CheckpointHook}
        super().register_default_hooks(hooks)

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's; a loop by iterations is ours and its data start at any position."""
        if not isinstance(loop, dict):
            return super().build_train_loop(loop)
        loop = dict(loop)
        kind = _name(loop.get('type', '')) or ('' if loop.get('by_epoch') else 'TrainLoop')
        if kind not in ('IterBasedTrainLoop', 'TrainLoop'):
            return super().build_train_loop(loop)
        loop.pop('type', None)
        loop.pop('by_epoch', None)
        data = self._train_dataloader
        if isinstance(data, dict):
            data = self._repeatable(dict(data))
        return TrainLoop(self, data, **loop)

    def _repeatable(self, data: dict[str, Any]) -> DataLoader:
        if isinstance(data['dataset'], dict):
            data['dataset'] = DATASETS.build(data['dataset'])
        if hasattr(data['dataset'], 'full_init'):
            data['dataset'].full_init()
        data['dataset'] = SeededDataset(data['dataset'], self.seed)
        shuffle = (data.get('sampler') or {}).get('shuffle', True)
        data['sampler'] = PositionSampler(data['dataset'], shuffle, self.seed)
        return self.build_dataloader(data, self.seed)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """mmengine's, whose processes leave signals to this one."""
        loader = _Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if isinstance(dataloader, dict):
            loader.worker_init_fn = partial(start_loading, loader.worker_init_fn)
        return loader

    # -- training --------------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train to the end, or until a signal.

        Raises:
            Failure: The last checkpoint could not be written.
        """
        with one_line_mistakes(self.cfg):
            self._prepare()
        model = self.train_loop.run()
        self.call_hook('after_run')
        if self.unsaved:
            raise Failure(self.unsaved)
        return model

    def _prepare(self) -> None:
        """Build what training needs, in the state that it starts or goes on from."""
        self.strategy = build_strategy(self.cfg)
        self.guard = Guard(self.cfg.get('nonfinite_limit', 3))
        self._train_loop = self.build_train_loop(self._train_loop)
        check_classes(self.model, getattr(self.train_dataloader.dataset, 'metainfo', None))
        folder = resumed_folder(self._load_from) if self._resume else None
        if folder is not None:
            check_position(self, folder)
        start_weights(self, folder, self._load_from)
        bare = self.model
        if options := self.cfg.get('compile_blocks'):
            compile_blocks(bare, options)
        self.model, self.optim_wrapper = self.strategy.prepare(self.model, self._build_optim)
        self.encoder_identity = encoder_identity(bare)
        if settings := self.cfg.get('ema'):
            self.ema = TrainedEma(self.strategy, **settings)
            self.register_hook(EmaHook())
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        accumulate = self.cfg.optim_wrapper.get('accumulative_counts', 1)
        self.guard.protect(self.optim_wrapper, bare, accumulate)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        self.call_hook('before_run')
        if folder is not None:
            self._go_on_from(folder)
        self.optim_wrapper.initialize_count_status(
            self.model, self.train_loop.iter, self.train_loop.max_iters
        )
        self._maybe_compile('train_step')
        self._has_loaded = True

    def _build_optim(self, model: nn.Module) -> OptimWrapper:
        wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if is_main_process():
            parameter_table.show(model, wrapper.optimizer.param_groups)
        return wrapper

    def _go_on_from(self, folder: CheckpointFolder) -> None:
        meta = resume_states(self, folder)
        if self.ema is not None and folder.has('ema'):
            self.ema.load(dict(folder.tensors('ema')))
        loop = self.train_loop
        if isinstance(loop, TrainLoop):
            loop.resume_at(folder.iteration, meta['drawn'])
        else:
            loop._iter, loop._epoch = folder.iteration, meta['epoch']
        if meta['seed'] != self.seed:
            note(f'The checkpoint was made with seed {meta["seed"]}, this run has {self.seed}.')

    @property
    def at_update(self) -> bool:
        """Whether the iteration that is ending updated the weights."""
        return (self.iter + 1) % self.cfg.optim_wrapper.get('accumulative_counts', 1) == 0

    def was_validated(self, iteration: int) -> bool:
        """Whether the history holds a validation after so many iterations."""
        history = self.message_hub.runtime_info.get(HISTORY, [])
        return any(entry.get('iteration') == iteration for entry in history)

    def validate(self) -> None:
        """Run the validation loop, with the moving average where there is one."""
        try:
            with self.ema.applied() if self.ema is not None else nullcontext():
                self.val_loop.run()
        except ValidationLeft:
            next(h for h in self.hooks if isinstance(h, InterruptHook)).leave_validation(self)

    def val(self) -> dict:
        self.model.to(get_device())
        return super().val()

    def test(self) -> dict:
        self.model.to(get_device())
        return super().test()

    # -- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Write a checkpoint folder. All processes call this together.

        Where it cannot be written, one line says so and training goes on.
        """
        meta = dict(meta or {})
        iteration = meta.get('iter', self.iter if by_epoch else self.iter + 1)
        epoch = meta.get('epoch', self.epoch + 1 if by_epoch else self.epoch)
        self._save(Path(out_dir) / filename, save_optimizer, iteration, epoch)

    def save_weights(self, path: Path, **facts: Any) -> bool:
        """Write a checkpoint of weights alone; whether that worked."""
        return self._save(path, False, self.iter, self.epoch, **facts)

    def _save(self, path: Path, states: bool, iteration: int, epoch: int, **more: Any) -> bool:
        dataset = self.train_dataloader.dataset
        facts = {
            'iteration': iteration,
            'epoch': epoch,
            'drawn': getattr(self.train_loop, 'drawn', 0),
            'seed': self.seed,
            'strategy': self.cfg.get('strategy') or type(self.strategy).__name__.lower(),
            'processes': self.world_size,
            'config': Path(self.cfg.filename).name if self.cfg.filename else None,
            'dataset_meta': plain_meta(getattr(dataset, 'metainfo', None)),
            **more,
        }
        try:
            save_run(self, path, states, facts)
        except NotSaved as error:
            self.unsaved = str(error)
            self.logger.warning(self.unsaved)  # the terminal shows the note alone
            if is_main_process():
                note(self.unsaved)
            return False
        if states:
            self.unsaved = None
        if states and is_main_process():
            (path.parent / 'last_checkpoint').write_text(str(path))
        return True

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Load weights from a folder of ours or from any file that mmengine reads."""
        if is_folder(filename):
            folder = open_folder(filename)
            load_folder(self.model, folder)
            self._has_loaded = True
            return folder.manifest
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        # Resuming would execute a config text that a file brings along.
        checkpoint.get('meta', {}).pop('config', None)
        return checkpoint


def _name(kind: Any) -> str:
    """Of a class, which a config gives as it is, by its name, or by its full path."""
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
