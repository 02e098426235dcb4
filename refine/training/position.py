"""How far has training come?"""

from dataclasses import dataclass, field

from torch import Tensor

from refine.datasets.course import Course


@dataclass
class Position:
    """The position of training between two steps. ``Trainer`` updates it and continues from it.

    epoch: epochs measured, the last with ``test_accuracy``; cycled: no cycle is left to do after
    it; best_validation: the greatest validation accuracy so far. step: steps done of the next
    epoch on ``seen`` images, which gave ``losses`` and ``right`` and took ``seconds``, the last at
    ``rate``; order: the state of the images' generator when that epoch began, random: that of the
    process's own generators. in_cycle: a cycle is running; only then can training not be resumed
    from here. task: index of the present task of a stream; ended: the accuracies on the tasks so
    far at the end of each.
    """

    epoch: int = 0
    test_accuracy: float | None = None
    best_validation: float | None = None
    cycled: bool = False
    step: int = 0
    seen: int = 0
    rate: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    order: Tensor | None = None
    random: dict | None = None
    in_cycle: bool = False
    task: int = 0
    ended: list[list[float]] = field(default_factory=list)

    def add(self, loss: Tensor, right: Tensor, count: int, rate: float) -> None:
        """Adds a step on ``count`` images, of which ``right`` were classified correctly."""
        self.losses.append(loss)
        self.right.append(right)
        self.seen += count
        self.rate = rate
        self.step += 1

    def check(self, course: Course) -> None:
        """ValueError unless this is a position in ``course``."""
        whole = 0 <= self.epoch <= course.epochs and 0 <= self.task < len(course.tasks)
        steps = course.steps(self.epoch + 1) if whole and self.epoch < course.epochs else 0
        if not whole or not len(self.losses) == len(self.right) == self.step <= steps:
            raise ValueError(f"its position, step {self.step} after epoch {self.epoch}, is not one")

    def move_to(self, other: "Position") -> None:
        """Becomes equal to ``other``."""
        vars(self).update(vars(other))
