"""What a run of probes can go on from: ``iter_N`` folders that are complete or absent."""

import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mmdet_seg.command_line import Failure
from mmdet_seg.engine.checkpoint import iterations
from mmdet_seg.engine.checkpoint_folder import NotSaved, open_folder, write_folder
from mmdet_seg.probes.segment_train import ProbeTrainer

_KEPT = 2


def save_state(folder: Path, trainer: ProbeTrainer, run: Mapping[str, Any]) -> Path:
    """Write where the training is, and remove all but the newest two.

    Args:
        folder: Of the run.
        trainer: The probes.
        run: What has to be the same in the run that goes on; JSON.

    Raises:
        mmdet_seg.command_line.Failure: It could not be written.
    """
    target = folder / f'iter_{trainer.step}'
    facts = {'iteration': trainer.step, 'probes': dict(run), **trainer.facts()}
    try:
        write_folder(target, trainer.tensors(), None, facts)
    except NotSaved as error:
        raise Failure(str(error)) from error
    for _, old in iterations(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_state(checkpoint: Path, trainer: ProbeTrainer, run: Mapping[str, Any]) -> None:
    """Go on from :func:`save_state`.

    Raises:
        ValueError: Broken, or of a run with other probes, data or encoder.
    """
    folder = open_folder(checkpoint)
    before = folder.manifest.get('probes')
    if not isinstance(before, dict):
        raise ValueError(f'{checkpoint} is not of a run of tools/probe.py segment.')
    for key, value in run.items():
        if before.get(key) != value:
            raise ValueError(
                f'{checkpoint} was made with {key} {_short(before.get(key))}, and now it is '
                f'{_short(value)}: give the same options as then, or leave --resume out.'
            )
    trainer.load(folder.tensors, folder.manifest)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else f'{text[:97]}...'


def command_to_go_on(words: Sequence[str], folder: Path | str) -> str:
    """The command that goes on with a run.

    Args:
        words: Of the command that started it.
        folder: Of the run.
    """
    kept, skip = [], False
    for word in words:
        if skip and not word.startswith('-'):
            skip = False
            continue
        skip = word in ('--resume', '--out')
        if not skip and not word.startswith(('--resume=', '--out=')):
            kept.append(word)
    return f'python {shlex.join(kept)} --resume {shlex.quote(str(folder))}'


class Interrupts:
    """Ctrl-C and SIGTERM ask for an end after the current step; a second one ends at once.

    Attributes:
        number: Of the signal, 0 while there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interrupts':
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: whoever runs us handles signals
                break
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: Any) -> None:
        if self.number:
            self._restore()
            signal.raise_signal(number)
        self.number = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
