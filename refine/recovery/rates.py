"""Which learning rate does an optimizer get from the first cut on?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from refine.errors import FieldError
from refine.recovery.curves import WARM_UP, Curve, Rates, lr_rewind, momentum


class Recovery:
    """Sets the rate of ``optimizer`` along ``curve``, which starts again after each cut.

    Three lines in a training loop: after the optimizer is made, after a cut, and after a training
    step. In place of ``slr``, any function of refine/recovery/curves.py or of that signature::

        recovery = Recovery(optimizer, slr)
        recovery.restart(steps)  # after a cut; steps: those of training until the next cut
        recovery.step()  # after each training step; does nothing before the first cut

    Step a scheduler of your own only while ``recovery.active`` is False.

    curve: None for no recovery, which does nothing.
    highest: by default the optimizer's own rate, as it was before a scheduler moved it.
    last: the rate to fine-tune with; by default the last of ``original``, but at least a hundredth
        of ``highest``, as many schedules end at 0; without ``original``, ``highest``.
    original: the rate of each step of the schedule that training follows, for ``lr_rewind``.
    cycle_momentum: whether momentum (Adam's first beta) falls from ``max_momentum`` to
        ``base_momentum`` and rises again while the rate rises and falls; with ``clr`` and
        ``one_cycle`` only.

    Rates are those of the first parameter group; the others keep their proportion to it. ValueError
    if the settings do not fit together, or the optimizer has no momentum to cycle.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Curve | None,
        *,
        highest: float | None = None,
        last: float | None = None,
        original: Sequence[float] = (),
        cycle_momentum: bool = False,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ):
        self.active = False  # whether the rate is set here
        self._step = self._steps = 0
        self._optimizer, self.curve = optimizer, curve
        if curve is None:
            return
        self._initial = [_initial(group) for group in optimizer.param_groups]
        highest = self._initial[0] if highest is None else highest
        if not (highest > 0 and self._initial[0] > 0):
            raise FieldError("curve", "needs an optimizer and a highest rate above 0")
        if curve is lr_rewind and not len(original):
            raise FieldError("curve", "lr_rewind needs the rates of the original schedule")
        if last is None:
            last = max(original[-1], highest / 100) if len(original) else highest
        self.rates = Rates(highest, last, tuple(original))
        self._warm_up = None
        if cycle_momentum:
            if curve not in WARM_UP:
                raise FieldError("cycle_momentum", "goes with clr and one_cycle")
            if not all(_has_momentum(group) for group in optimizer.param_groups):
                problem = f"{type(optimizer).__name__} has no momentum to cycle"
                raise FieldError("cycle_momentum", problem)
            self._warm_up = WARM_UP[curve]
        self._momenta = base_momentum, max_momentum

    def restart(self, steps: int) -> None:
        """Starts the curve again, over ``steps`` training steps, and sets its first rate at once.
        ValueError if ``steps`` is below 1."""
        if self.curve is None:
            return
        if steps < 1:
            raise ValueError(f"recovery needs at least 1 step after a cut, not {steps}")
        self.active, self._step, self._steps = True, 0, steps
        self._set()

    def plan(self, steps: int) -> None:
        """Corrects the length of the curve: there are ``steps`` training steps from here until the
        next cut."""
        if self.active and steps > 0:
            self._steps = self._step + steps
            self._set()

    def step(self) -> None:
        """Sets the rate of the next training step."""
        if self.active:
            self._step += 1
            self._set()

    def state_dict(self) -> dict[str, Any]:
        """The position on the curve."""
        return {"step": self._step, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a ``state_dict`` and sets the rate. To be called after the optimizer's own state
        was loaded."""
        if self.curve is None:
            return
        self._step, self._steps = state["step"], state["steps"]
        self.active = self._steps > 0
        self._set()

    @torch.no_grad()
    def _set(self) -> None:
        if self.curve is None or not self.active:
            return
        rate = self.curve(self._step, self._steps, self.rates)
        groups = self._optimizer.param_groups
        for group, initial in zip(groups, self._initial, strict=True):
            # As schedulers do, so that it is still known after the rate has changed and was saved.
            group.setdefault("initial_lr", initial)
            value = rate * (initial / self._initial[0])
            if isinstance(group["lr"], Tensor):  # a captured step reads this very tensor
                group["lr"].fill_(value)
            else:
                group["lr"] = value
            if self._warm_up is None:
                continue
            now = momentum(self._step, self._steps, self._warm_up, *self._momenta)
            if "betas" in group:
                group["betas"] = (now, *group["betas"][1:])
            else:
                group["momentum"] = now


def _initial(group: dict[str, Any]) -> float:
    # OneCycleLR overwrites initial_lr with its own first rate; max_lr is what it was made with.
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _has_momentum(group: dict[str, Any]) -> bool:
    # RMSprop without momentum has no buffer for it and would fail in the middle of a run.
    return "betas" in group or group.get("momentum", 0) != 0
