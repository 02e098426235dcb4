"""In which environment was a run made: which versions, commit and command?"""

import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import refine

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors")


def versions() -> dict[str, Any]:
    """The versions of the package and of what it uses, its git commit, and the command."""
    return {
        "runtime-refinement": refine.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    """The commit of the package's checkout, with a + if files have changed since; None without."""
    home = Path(refine.__file__).parent
    try:
        if not (home.parent / ".git").exists():
            return None
        ask = ["git", "-C", str(home), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(
            ask, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
