"""One command from a fresh clone: ``python scripts/dev.py run`` or ``python scripts/dev.py test``.

Makes a virtual environment in ``.venv`` and installs the project into it, for ``test`` and ``lint``
with what the tests need; a second time only if pyproject.toml has changed. Needs nothing but Python
3.11 or later.

    python scripts/dev.py run [refine-run's arguments]
    python scripts/dev.py test [pytest's arguments]
    python scripts/dev.py lint
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PROGRAMS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


def main() -> int:
    commands = {
        "run": [["-m", "refine", "run"]],
        "test": [["-m", "pytest", "-n", "auto", "--dist", "worksteal", "--durations=20"]],
        "lint": [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "."],
            ["-m", "mypy"],
        ],
    }
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(__doc__)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs before anything is installed)
        print(f"Python 3.11 or later is needed; this is {sys.version.split()[0]}")
        return 1
    if sys.argv[1] == "test":  # a process a core, and a thread each
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    python = install("" if sys.argv[1] == "run" else "[dev]")
    if sys.argv[1] != "run":
        os.chdir(ROOT)
    for command in commands[sys.argv[1]]:
        code = subprocess.call([python, *command, *sys.argv[2:]])
        if code:
            return code
    return 0


def install(extra: str) -> str:
    """Installs what is missing, with an extra of the package; the environment's Python."""
    python = str(PROGRAMS / "python")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    done = ENVIRONMENT / "installed-for"
    if done.is_file() and done.read_text() in (wanted + extra, wanted + "[dev]"):
        return python
    print(f"Installing into {ENVIRONMENT} (once; PyTorch is several GB) ...", flush=True)
    if not done.is_file():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f"{ROOT}{extra}"], check=True)
    done.write_text(wanted + extra)
    return python


if __name__ == "__main__":
    sys.exit(main())
