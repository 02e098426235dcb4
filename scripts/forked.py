"""Commands in processes that start at once: forked from one that has imported everything.

A process of one's own needs seconds to import PyTorch. A signal here meets the command itself
instead, and a test of many runs takes a third of the time. Linux and macOS only.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

_IMPORTED = [
    "refine.cli.run", "refine.cli.resume", "refine.cli.sweep", "refine.experiment",
    "refine.report.cli", "refine.report.figure", "refine.report.terminal", "sklearn.datasets",
    "sklearn.model_selection", "torch._dynamo", "torchmetrics",
]  # fmt: skip


class Forked:
    """A running command of ``refine``, much as subprocess.Popen.

    module: the one whose ``main`` is called. before: called in the process first. What it prints
    goes to files.
    """

    def __init__(
        self,
        arguments: list[str],
        before: Callable[[], object] | None = None,
        *,
        module: str = "refine.cli.run",
        cwd: Path | str | None = None,
        environment: Mapping[str, str] = {},
    ):
        context = get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        self._place = tempfile.TemporaryDirectory()
        self._files = [Path(self._place.name) / name for name in ("stdout", "stderr")]
        self.arguments = arguments
        self._process = context.Process(
            target=_main,
            args=(arguments, self._files, before, module, str(cwd or Path.cwd()), environment),
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if one ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it ends."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits until it ends; what it printed and what it said of errors."""
        self.wait(timeout)
        texts = [file.read_text("utf-8", "replace") for file in self._files]
        self._place.cleanup()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self._process.is_alive():
            os.kill(self._process.pid, number)


def done(arguments: list[str], timeout: float = 600, **named) -> subprocess.CompletedProcess:
    """The command once it has ended."""
    process = Forked(arguments, **named)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _main(
    arguments: list[str],
    files: list[Path],
    before: Callable[[], object] | None,
    module: str,
    cwd: str,
    environment: Mapping[str, str],
) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[0] = cwd
    sys.argv = [module, *arguments]
    if before is not None:
        before()
    import_module(module).main()
