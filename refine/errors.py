"""What went wrong, in words for the person who can mend it?"""

from difflib import get_close_matches


class SettingError(Exception):
    """A setting that cannot be followed: which one, why, and what would be right."""

    def __init__(self, setting: str, problem: str):
        super().__init__(f"{setting}: {problem}")
        self.setting = setting


class TrainingError(Exception):
    """Training that cannot go on, such as a loss that is no longer a number."""


class Stop(BaseException):
    """Ends a run on request at the step or row where it is raised; what was measured is kept.

    ``status`` goes into the summary: how the run ended. Not an Exception, as KeyboardInterrupt is
    none: nobody's own code shall take it for a failure.
    """

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status = status


class ReportError(Exception):
    """A report that cannot be made: why, and what would be right."""


def one_of(known: list[str], given: str) -> str:
    """The sentence that lists what ``given`` could have been, the nearest first."""
    near = get_close_matches(given, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}{'K' if hint else 'k'}nown: {', '.join(known)}"
