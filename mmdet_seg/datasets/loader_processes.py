"""Signals in the processes that load images."""

import os
import signal
from collections.abc import Callable
from threading import Thread


def leave_signals(_: int = 0) -> None:
    """Leave Ctrl-C and SIGTERM to the main process; a ``worker_init_fn``.

    A terminal, Slurm and ``timeout`` send them to all processes of a group. Those that load have to
    go on until the main one has done its last update and saved; they end when it says so, with a
    SIGTERM of its own or without one, or when it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, 'sigwaitinfo'):  # Linux has it
        return
    # Threads that are started from here on inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def start_loading(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Leave signals, then do what the loader was given as ``worker_init_fn``."""
    leave_signals(worker_id)
    if then is not None:
        then(worker_id)


def _end_when_told(parent: int) -> None:
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == parent or os.getppid() != parent:
            os._exit(0)  # as if all were well, which does not disturb the main one's last step
