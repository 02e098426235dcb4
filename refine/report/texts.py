"""How is a file of a run read that may be anything by now?"""

import json
import stat
from pathlib import Path
from typing import Any

import yaml

MEGABYTE = 2**20
LARGEST = {".csv": 256 * MEGABYTE, ".json": 16 * MEGABYTE, ".yaml": 4 * MEGABYTE}


class Unusable(Exception):
    """Why a run cannot be used."""


def text_of(path: Path) -> str:
    """The text of a file; Unusable if it is none, or too large to be a run's."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise Unusable(f"{path.name} is no file")
        if about.st_size > (most := LARGEST.get(path.suffix, MEGABYTE)):
            size = f"{about.st_size / MEGABYTE:,.0f} MiB"
            raise Unusable(f"{path.name} has {size}; a run's has at most {most // MEGABYTE}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unusable(f"there is no {path.name}") from None
    except OSError as error:
        raise Unusable(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{path.name} is not text") from None


def json_of(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError, MemoryError):
        raise Unusable(f"{path.name} is not valid JSON") from None


def yaml_of(path: Path) -> Any:
    """What a YAML file holds. One with aliases is no run's: a few lines of them can stand for
    billions of values, or for themselves."""
    try:
        return yaml.load(text_of(path), _WithoutAliases)
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise Unusable(f"{path.name} is not valid YAML{where}") from None


class _WithoutAliases(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "an alias", mark)
        return super().compose_node(parent, index)
