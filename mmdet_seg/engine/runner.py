"""mmengine's Runner with a quiet terminal and checkpoints that are complete or absent."""

import logging
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner as _Runner


def build_runner(cfg: Config) -> 'Runner':
    """Build a runner; what a config gets wrong becomes one line.

    Raises:
        ValueError: A type that is not registered, or arguments that a class does not take.
    """
    try:
        return Runner.from_cfg(cfg)
    except (TypeError, KeyError) as error:
        text = str(error.args[0]) if error.args else ''
        if any(hint in text for hint in ('keyword argument', 'positional argument', 'registry')):
            raise ValueError(f'{cfg.filename}: {text}') from error
        raise


class Runner(_Runner):
    """Logs to ``<work_dir>/run.log``; the terminal shows warnings and what the hooks print.

    Attributes:
        interrupted: Whether a signal ended training early (:class:`InterruptHook`).
    """

    interrupted = False

    def build_logger(
        self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        log_file = log_file or str(Path(self.work_dir) / 'run.log')
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write aside, then rename: a killed save leaves the old file or none."""
        aside = f'.{filename}.part'
        super().save_checkpoint(out_dir, aside, *args, **kwargs)
        if (Path(out_dir) / aside).exists():  # only the main process writes
            os.replace(Path(out_dir) / aside, Path(out_dir) / filename)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict:
        checkpoint = super().load_checkpoint(*args, **kwargs)
        # Resuming would execute a config text that a file brings along.
        checkpoint.get('meta', {}).pop('config', None)
        return checkpoint
