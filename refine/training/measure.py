"""How good is a network now, on all that it was taught so far?"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from refine.datasets.prepare import Data
from refine.evaluation.accuracy import Score, accuracy


@dataclass(frozen=True)
class Measured:
    """Scores over the images of all tasks so far, and the test accuracy on each of them."""

    test: Score
    validation: Score | None
    by_task: list[float]


@dataclass(frozen=True)
class Measuring:
    """Measures in the precision of ``autocast``; ``tasks`` are those that training has come to."""

    autocast: Callable[[], AbstractContextManager]

    def all(self, model: nn.Module, tasks: list[Data]) -> Measured:
        """Everything that an epoch records."""
        scores = self._scores(model, tasks, "test")
        return Measured(
            _together(scores, tasks, "test"),
            self.validation(model, tasks),
            [score.accuracy for score in scores],
        )

    def test(self, model: nn.Module, tasks: list[Data]) -> Score:
        """On the test images."""
        return _together(self._scores(model, tasks, "test"), tasks, "test")

    def validation(self, model: nn.Module, tasks: list[Data]) -> Score | None:
        """On the validation images, if there are any."""
        if tasks[0].validation is None:
            return None
        return _together(self._scores(model, tasks, "validation"), tasks, "validation")

    def _scores(self, model: nn.Module, tasks: list[Data], part: str) -> list[Score]:
        return [accuracy(model, task.plain(getattr(task, part)), self.autocast) for task in tasks]


def _together(scores: list[Score], tasks: list[Data], part: str) -> Score:
    if len(scores) == 1:
        return scores[0]
    counts = [len(getattr(task, part)) for task in tasks]
    pairs = list(zip(scores, counts, strict=True))
    return Score(
        sum(score.loss * count for score, count in pairs) / sum(counts),
        sum(score.accuracy * count for score, count in pairs) / sum(counts),
    )
