"""How does a command end, whatever happens in it?"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from refine.errors import Stop


def ended(
    name: str,
    work: Callable[[], None],
    errors: tuple[type[Exception], ...],
    of_system: Callable[[OSError], str],
) -> int:
    """Does the ``work`` of the command ``name``; its exit code. One of ``errors`` is a line on
    stderr, an OSError the line that ``of_system`` makes of it."""
    try:
        work()
        sys.stdout.flush()
    except errors as error:
        problem = str(error)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        problem = of_system(error)
    else:
        return 0
    print(f"{name}: {problem}", file=sys.stderr)
    return 1


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED = 130
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Signals:
    """A context in which these signals only ask; ``check`` stops where one has. With ``at_once``
    they are a Stop wherever the program is. Ctrl-C waits for no ``check`` while ``stepping`` is
    False. Outside the main thread, where Python delivers none, it does nothing."""

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self.stepping = False  # whether check is called every now and then
        self._asked: Stop | None = None
        self._usual: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: object, traceback: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        if self._asked and kind is None:  # too late for this run; a sweep shall stop all the same
            outer = self._usual[self._asked.signal]
            if callable(outer) and outer is not signal.default_int_handler:
                outer(self._asked.signal, None)

    def check(self) -> None:
        """Stop, if a signal has asked for it."""
        if self._asked:
            asked, self._asked = self._asked, None
            raise asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            self._asked = Stop("preempted", f"stopped by {signal.Signals(number).name}", number)
            if self._at_once:
                self.check()
        elif self._at_once or self._asked or not self.stepping:
            raise KeyboardInterrupt
        else:
            self._asked = Stop("interrupted", "interrupted", number)
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


def ignore() -> None:
    """For a process whose work is done: nothing is left that a scheduler could ask to be saved."""
    if threading.current_thread() is threading.main_thread():
        for number in set(SIGNALS) - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)
