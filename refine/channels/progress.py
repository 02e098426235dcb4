"""What is said while channels are searched for, if that takes long?"""

import logging
from time import monotonic

log = logging.getLogger("refine")
PATIENCE = 2.0  # seconds before the first line; each later one comes after twice the time


class Progress:
    """Says how far a search has come. ``what``: what is being done."""

    def __init__(self, what: str):
        self._what, self._begin, self._wait = what, monotonic(), PATIENCE

    def at(self, share: float) -> None:
        """A ``share``, from 0 to 1, is done."""
        took = monotonic() - self._begin
        if took >= self._wait:
            log.info("%s: %d%% after %d s", self._what, 100 * share, took)
            self._wait = 2 * took
