"""Where may a report be written, so that nothing of anybody's is lost?"""

from pathlib import Path

from refine.errors import ReportError
from refine.plain import plain
from refine.records.rows import CONFIG_FILE, LOG_FILE, SUMMARY_FILE

# How our tables begin, and what matplotlib leaves in a picture.
BEGINNINGS = (b"group,", b'{\n  "caption": "', b"% needs \\usepackage{booktabs}")
WITHIN = (b"Test accuracy", b"test accuracy", b"atplotlib")
LOOKED_AT = 8192  # bytes at the start and at the end


def check_target(path: Path) -> None:
    """ReportError if ``path`` is no new file and no earlier report, which alone is replaced."""
    problem = _problem(path)
    if problem:
        raise ReportError(f"--output: {plain(path)} {problem}")


def _problem(path: Path) -> str:
    if path.is_symlink():
        return "is a symbolic link, which would be replaced; name the file itself"
    if path.is_dir():
        return "is a directory; name a file in it"
    if not path.exists():
        return ""
    if not path.is_file():
        return "is no file but a device or a pipe; without --output a table goes to the terminal"
    if any((path.parent / name).exists() for name in (CONFIG_FILE, SUMMARY_FILE, LOG_FILE)):
        return "exists in a run's directory, and may be a file of the run; choose another place"
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
        file.seek(max(0, path.stat().st_size - LOOKED_AT))
        end = file.read(LOOKED_AT)
    if start.startswith(BEGINNINGS) or any(mark in start + end for mark in WITHIN):
        return ""
    return "exists and is no report; remove it, or choose another name"
