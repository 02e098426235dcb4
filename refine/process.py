"""How does a command end: after an error, after Ctrl-C, or because a signal asks it to stop?"""

import importlib.metadata
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from refine.errors import SettingError, Stop

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED = 130
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
Handler = Callable[[int, FrameType | None], Any] | int | None


def run_command(
    name: str,
    work: Callable[[], None],
    errors: tuple[type[Exception], ...],
    describe: Callable[[OSError], str],
) -> int:
    """Does the ``work`` of the command ``name`` and returns its exit code.

    One of ``errors`` becomes a line on stderr; of an OSError ``describe`` makes that line.
    """
    forgiving_streams()
    explained: tuple[type[Exception], ...] = (*errors, SettingError)
    try:
        working_directory()
        work()
        sys.stdout.flush()
    except explained as error:
        problem = str(error)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        problem = describe(error)
    else:
        return 0
    print(f"{name}: {problem}", file=sys.stderr)
    return 1


def forgiving_streams(outlive_reader: bool = False) -> None:
    """From now on stdout and stderr show ? for what their encoding lacks. ``outlive_reader``: where
    the reader of a pipe, such as head, has gone, what is written is lost, and the work goes on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if outlive_reader and not stream.isatty():
                setattr(sys, name, _Outliving(stream))


class _Outliving:
    """A stream that can lose its reader."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, if there is a reader."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Passes on what was written, if there is a reader."""
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def version() -> str:
    """The package's name and version, as installed."""
    name = "runtime-refinement"
    return f"{name} {importlib.metadata.version(name)}"


def working_directory() -> Path:
    """Where the command was started; SettingError if that directory has been deleted since."""
    try:
        return Path.cwd()
    except OSError:
        problem = "does not exist any more; change to one that does"
        raise SettingError("the working directory", problem) from None


class Signals:
    """A context in which a signal only asks to stop; ``check`` then raises the Stop.

    With ``at_once`` the Stop is raised wherever the program is. Ctrl-C waits for a ``check`` only
    while ``stepping`` is True, and a second Ctrl-C never waits. Outside the main thread, where
    Python delivers no signals, the context does nothing.
    """

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self.say: Callable[[str], None] = _on_stderr  # where it is said that a stop was asked for
        self.stepping = False  # whether check is called every now and then
        self._asked: int | None = None  # the signal that has asked to stop
        self._usual: dict[int, Handler] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        # Too late to stop this run; a sweep around it must stop all the same.
        if self._asked is not None and error_type is None:
            outer = self._usual[self._asked]
            if callable(outer) and outer is not signal.default_int_handler:
                outer(self._asked, None)

    def check(self) -> None:
        """Raises a Stop if a signal has asked for one."""
        if self._asked is not None:
            number, self._asked = self._asked, None
            raise _stop(number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            self._asked = number
            if self._at_once:
                self.check()
        elif self._at_once or self._asked is not None or not self.stepping:
            raise KeyboardInterrupt
        else:
            self._asked = number
            self.say("stopping after this step; Ctrl-C again stops at once")


def _on_stderr(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())


def _stop(number: int) -> Stop:
    if number == signal.SIGINT:
        return Stop("interrupted", "interrupted", number)
    return Stop("preempted", f"stopped by {signal.Signals(number).name}", number)


def ignore_signals() -> None:
    """Ignores every signal but Ctrl-C from now on: the run is written, nothing can be saved."""
    if threading.current_thread() is threading.main_thread():
        for number in set(SIGNALS) - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)
