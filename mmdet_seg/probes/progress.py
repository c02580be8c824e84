"""How far long work is and how much time is left."""

import sys
import time
from collections.abc import Callable

from mmdet_seg import command_line
from mmdet_seg.engine.progress_hook import clock

_EVERY = 5.0  # seconds between lines at first
_SHARE = 0.05  # of the time so far, between lines of a long run


class Progress:
    """Lines on standard error with the time that is left; short work says nothing.

    Args:
        what: Is being done.
        total: Of it.
        unit: Counted.
    """

    def __init__(self, what: str, total: int, unit: str = 'images/s') -> None:
        self.what, self.total, self.unit = what, total, unit
        self.started = self.said = time.monotonic()
        self.done, self.before, self.spoke = 0, 0, False

    def skip(self, count: int) -> None:
        """Count what an earlier run did."""
        self.before = self.done = count

    def add(self, count: int, more: str | Callable[[], str] = '') -> None:
        """Say how far it is, every few seconds."""
        self.done += count
        now = time.monotonic()
        every = _EVERY if sys.stderr.isatty() else max(_EVERY, _SHARE * (now - self.started))
        if now - self.said >= every:
            self.said, self.spoke = now, True
            self._say(more() if callable(more) else more)

    def close(self) -> None:
        """The last line, where there was one before."""
        if self.spoke:
            spent = time.monotonic() - self.started
            self._line(f'{self.what} {self.done}/{self.total}  took {clock(spent)}', last=True)

    def _say(self, more: str) -> None:
        spent = time.monotonic() - self.started
        rate = max(self.done - self.before, 1e-9) / spent
        left = clock((self.total - self.done) / rate)
        more = f'  {more}' if more else ''
        self._line(
            f'{self.what} {self.done}/{self.total}{more}  {rate:.3g} {self.unit}  {left} left'
        )

    def _line(self, text: str, last: bool = False) -> None:
        if sys.stderr.isatty():
            print(f'\r\033[K{text}', end='\n' if last else '', file=sys.stderr, flush=True)
        else:
            command_line.note(text)
