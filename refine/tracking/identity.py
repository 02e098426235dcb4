"""Under which id does a tracker know a run, also after it was killed and resumed?"""

import json
from pathlib import Path

from refine.records.files import write_text

TRACKER_FILE = "tracker.json"


def known_id(directory: Path, tracker: str) -> str | None:
    """The id that ``tracker`` gave to the run in ``directory``, if any."""
    return _ids(directory).get(tracker)


def remember_id(directory: Path, tracker: str, run_id: str) -> None:
    """Stores ``run_id`` in the run's directory."""
    ids = _ids(directory) | {tracker: run_id}
    write_text(directory / TRACKER_FILE, json.dumps(ids, indent=2) + "\n")


def run_name(directory: Path) -> str:
    """The name that people see: the last two parts of the path, as the last may be just a time."""
    return "/".join(directory.absolute().parts[-2:])


def _ids(directory: Path) -> dict[str, str]:
    path = directory / TRACKER_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
