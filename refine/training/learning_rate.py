"""What rate does the next training step have?"""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from refine.recovery import Recovery


class LearningRate:
    """The curve of the recipe until the first cut, and from each cut on the recovery's, if there
    is one.

    per: "batch" or "epoch", how often ``scheduler`` is stepped; length: how many steps its curve
    has, behind which the rate stays, as where the cut that was to end it never came. Replay steps
    move nothing.
    """

    def __init__(self, scheduler: LRScheduler, per: str, length: int, recovery: Recovery):
        self.scheduler, self.per, self.length = scheduler, per, length
        self.recovery = recovery
        self._steps = 0  # of the scheduler

    def after_step(self) -> None:
        """To be called after every training step of an epoch."""
        if self.recovery.active:
            self.recovery.step()
        elif self.per == "batch":
            self._step()

    def after_epoch(self) -> None:
        """To be called after every epoch."""
        if self.per == "epoch" and not self.recovery.active:
            self._step()

    def state_dict(self) -> dict[str, Any]:
        """Where on which curve it is, as numbers."""
        return {"steps": self._steps, "recovery": self.recovery.state_dict()}

    def follow_(self, state: dict[str, Any]) -> None:
        """Steps the scheduler to where ``state`` was: on the curve of this run, which may be longer
        than that run's."""
        for _ in range(state["steps"]):
            self._step()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings the recovery to where it was; after ``follow_``, and after the optimizer was
        loaded."""
        self.recovery.load_state_dict(state["recovery"])

    def _step(self) -> None:
        if self._steps < self.length:
            self.scheduler.step()
            self._steps += 1
