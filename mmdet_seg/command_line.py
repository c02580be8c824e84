"""What every command line does alike: one-line errors and exit statuses.

Imports the standard library only, so that a tool can use it before it has parsed its arguments.
"""

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NoReturn

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


_WRONG_PATH = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


class Failure(RuntimeError):
    """A run that circumstances ended, not a mistake in its command: one line, status 1."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f'{self.prog}: {message}; see {self.prog} --help.\n')


# Threads that wait for each other by spinning take the cores from the data loaders and from other
# processes (two runs on two cores: 2.1 s a step, this way 1.5 s); threads that sleep at once lose a
# fifth of a step to waking up. So they spin a little. Read by OpenMP when torch is imported, which
# is after this module.
if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ.setdefault('GOMP_SPINCOUNT', '3000')


def run(main: Callable[[], int | None]) -> None:
    """Call a tool and leave with its status.

    A ValueError or FileNotFoundError is a user's mistake: its message is printed as one line and
    the status is 2, and so are the other errors of a path; what a disk refuses is 1.
    ``MMDET_SEG_TRACEBACK=1`` shows where it came from. Ctrl-C leaves with 130.
    """
    program = Path(sys.argv[0]).name
    for module in ('mmseg', 'mmdet', 'mmcv', 'mmengine', 'torch', 'torchvision'):
        # What our dependencies warn about is theirs to mend, not the reader's.
        warnings.filterwarnings('ignore', module=rf'{module}(\..*)?$')
    try:
        status = main()
    except KeyboardInterrupt:
        print(f'{program}: interrupted.', file=sys.stderr)
        status = INTERRUPTED
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get('MMDET_SEG_TRACEBACK') == '1':
            raise
        _complain(f'{program}: {one_line(error)}')
        status = USAGE
    except Failure as error:
        if os.environ.get('MMDET_SEG_TRACEBACK') == '1':
            raise
        _complain(f'{program}: {one_line(error)}')
        status = FAILED
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except OSError as error:
        if os.environ.get('MMDET_SEG_TRACEBACK') == '1' or error.errno is None:
            raise
        _complain(f'{program}: {one_line(error)}')
        status = USAGE if isinstance(error, _WRONG_PATH) else FAILED
    sys.stdout.flush()
    sys.exit(status or OK)


def one_line(error: BaseException) -> str:
    """The message without line breaks and without what mmengine's registry puts in front."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror}.'
    text = ' '.join(str(error).split())
    while text.startswith('class `') and '.py: ' in text:
        text = text.split('.py: ', 1)[1]
    return text or type(error).__name__


def note(text: str) -> None:
    """Say on standard error what is going on; of several processes, the first one speaks."""
    if os.environ.get('RANK', '0') == '0':
        print(text, file=sys.stderr, flush=True)


def _complain(text: str) -> None:
    """Say on standard error what went wrong.

    What all processes find wrong, the first one says: torchrun ends the others as soon as it is
    gone. What only one of them finds, that one says after a moment.
    """
    if os.environ.get('RANK', '0') != '0':
        sys.stdout.flush()
        time.sleep(5)
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """The processor, how many threads are used, and the day: what belongs beside a figure."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':', 1)[1].strip()
                break
    if torch.cuda.is_available():
        name += f', {torch.cuda.get_device_name()}'
    return f'{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today()}'
