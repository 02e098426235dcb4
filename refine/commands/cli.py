"""The command ``refine``: one name for all the others."""

import os
import sys
from importlib import import_module
from pathlib import Path

from refine import __version__
from refine.errors import one_of
from refine.plain import plain

# In the order of a project: the module whose main is called, and what it does.
COMMANDS = {
    "run": ("refine.cli.run", "train a network while it is pruned; -m makes a sweep"),
    "ls": ("refine.commands.ls", "list runs: how far they are, how good, how large"),
    "show": ("refine.commands.show", "one run: its settings, cycles, end and files"),
    "diff": ("refine.commands.diff", "two runs: the settings and results that differ"),
    "report": ("refine.report.cli", "tables and pictures of many runs"),
    "study": ("refine.study.cli", "search settings for the highest accuracy"),
    "export": ("refine.export.cli", "write a run's network as files to deploy"),
    "bench": ("refine.bench.cli", "compare a run's network with the dense one"),
    "restore": ("refine.cli.restore", "a run's network as it was before a cut"),
    "clean": ("refine.commands.clean", "delete what finished and failed runs need no more"),
}
OWN = ("ls", "show", "diff", "clean")
HELP = """\
usage: refine COMMAND [arguments]

{commands}

examples:
  refine run pruner.ratio=0.2          a run on the digits, about half a minute
  refine ls                            the runs so far, the best first

refine COMMAND --help says more of each; refine run is refine-run, and so on. --version shows the
version. Tab completes commands and settings after: eval "$(refine -sc install=bash)"
"""


def main() -> int | None:
    """Runs the command that the command line names and returns its exit code; 2 if there is no
    such command."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {command:{width}}  {what}" for command, (_, what) in COMMANDS.items())
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0
    if name in ("--version", "-V"):
        print(f"runtime-refinement {__version__}")
        return 0
    if name in ("-sc", "--shell-completion"):
        return _complete(rest)
    if name not in COMMANDS:
        print(f"refine: {_unknown(name)}", file=sys.stderr)
        return 2
    return _hand_over(name, rest)


def _hand_over(name: str, arguments: list[str]) -> int | None:
    """Calls the command as if it had been called by its own name."""
    called = "refine" if name in OWN else f"refine-{name}"
    sys.argv = [str(Path(sys.argv[0]).with_name(called)), *arguments]
    code: int | None = import_module(COMMANDS[name][0]).main()
    return code


def _unknown(name: str) -> str:
    if "=" in name or name.startswith("-"):
        what = "option" if name.startswith("-") else "command"
        return f"there is no {what} {plain(name):.80}; settings follow a command: refine run {name}"
    return f"there is no command {plain(name)!r:.80}; {one_of(list(COMMANDS), name)}"


def _complete(arguments: list[str]) -> int | None:
    """What Hydra's completion asks for: its own for refine run, and the names of the commands.
    Nothing for the others, so that the shell completes names of files."""
    line = os.environ.get("COMP_LINE", "")
    if not arguments or not arguments[0].startswith("query="):  # install= or uninstall=
        sys.argv = [str(Path(sys.argv[0]).with_name("refine")), "-sc", *arguments]
        import_module("refine.cli.run").main()
        return 0
    _, name, rest = (*line.split(maxsplit=2), "", "", "")[:3]
    if not rest and line == line.rstrip():
        print(" ".join(command for command in COMMANDS if command.startswith(name)))
    elif not name:
        print(" ".join(COMMANDS))
    elif name == "run":
        os.environ["COMP_LINE"] = f"refine-run {rest}"
        _hand_over("run", ["-sc", *arguments])
    return 0


if __name__ == "__main__":
    sys.exit(main())
