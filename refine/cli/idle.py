"""Which settings have an effect in only some of several runs, and which runs are the same?"""

from omegaconf import DictConfig

from refine.config import fingerprint
from refine.errors import SettingError


class Idle:
    """Remembers, run by run, the settings that were given and have no effect in it."""

    def __init__(self) -> None:
        self._runs = self._repeats = 0
        self._seen: set[str] = set()
        self._errors: dict[str, list[SettingError]] = {}

    def add(self, errors: dict[str, SettingError]) -> None:
        """Counts one run, with the errors of what has no effect in it."""
        self._runs += 1
        for name, error in errors.items():
            self._errors.setdefault(name, []).append(error)

    def is_new(self, config: DictConfig, errors: dict[str, SettingError]) -> bool:
        """Counts the run of ``config``; False if it differs from an earlier one only in what has no
        effect."""
        self.add(errors)
        mark = fingerprint(config)
        repeats = mark in self._seen and bool(errors)
        self._seen.add(mark)
        self._repeats += repeats
        return not repeats

    def nowhere(self) -> dict[str, SettingError]:
        """The settings that have no effect in any run, with their errors."""
        return {
            name: errors[0] for name, errors in self._errors.items() if len(errors) == self._runs
        }

    def notes(self) -> list[str]:
        """A line for each setting that has no effect in some of the runs, and for runs that are the
        same. SettingError for one that has none in any."""
        for error in self.nowhere().values():
            raise error
        lines = [
            f"in {len(errors)} of {self._runs} combinations, {errors[0]}"
            for errors in self._errors.values()
        ]
        if self._repeats:
            lines.append(
                f"{self._repeats} of {self._runs} combinations differ from others only in what has "
                "no effect there, and are left out"
            )
        return lines
