"""What went wrong, and what would be right?"""

import re
from difflib import get_close_matches


class SettingError(Exception):
    """A setting that cannot be used: which one, why, and what would be right."""

    def __init__(self, setting: str, problem: str):
        super().__init__(setting, problem)  # both, so that it can be pickled
        self.setting, self.problem = setting, problem

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class FieldError(ValueError):
    """A value that an object refuses: which of its fields, and what is wrong with it."""

    def __init__(self, field: str, problem: str):
        super().__init__(field, problem)  # both, so that it can be pickled
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field} {self.problem}"


class TrainingError(Exception):
    """Training that cannot continue, such as with a loss that is no longer a number."""


class Stop(BaseException):
    """Ends a run on request at the step or row where it is raised; what was measured is kept.

    ``status`` is how the run ended, as the summary says it; ``signal`` is the number of the signal
    that asked for it. Like KeyboardInterrupt it is no Exception, so that a user's own code does not
    take it for a failure.
    """

    def __init__(self, status: str, reason: str, signal: int | None = None):
        super().__init__(status, reason, signal)  # all of them, so that it can be pickled
        self.status, self.reason, self.signal = status, reason, signal

    def __str__(self) -> str:
        return self.reason


class ReportError(Exception):
    """A report that cannot be made: why, and what would be right."""


class NetworkError(Exception):
    """A file that holds no network, or another one than was asked for."""


def nearest(known: list[str], given: str) -> str | None:
    """The one of ``known`` that ``given`` most likely stands for, whatever its case and dashes."""
    plain = {re.sub(r"[-_ ]", "", name.lower()): name for name in reversed(known)}
    word = re.sub(r"[-_ ]", "", given.lower())
    if word in plain:
        return plain[word]
    near = get_close_matches(word, plain, n=1, cutoff=0.6)
    parts = [name for name in plain if len(word) > 3 and word in name]
    return plain[near[0]] if near else plain[parts[0]] if len(parts) == 1 else None


def one_of(known: list[str], given: str) -> str:
    """The sentence that lists what ``given`` could have been, the nearest first."""
    near = nearest(known, given)
    hint = f"did you mean {near}? " if near else ""
    return f"{hint}{'K' if hint else 'k'}nown: {', '.join(known)}"
