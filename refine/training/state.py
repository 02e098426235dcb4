"""What is the state of a run, and how does a run go on from it?"""

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from refine.records.rows import CycleRow, EpisodeRow, EpochRow
from refine.rng import random_state, set_random_state
from refine.training import optimizer_state
from refine.training.alike import check_alike
from refine.training.learning_rate import LearningRate
from refine.training.position import Position
from refine.training.trainer import Trainer

# What a learning rate's curve may set in an optimizer's groups; the rest is the optimizer's own.
OF_THE_CURVE = (
    "params", "lr", "initial_lr", "max_lr", "min_lr", "momentum", "base_momentum", "max_momentum",
    "betas",
)  # fmt: skip
Rows = list[EpochRow | CycleRow]


@dataclass
class Recorded:
    """What a run has measured so far."""

    rows: Rows = field(default_factory=list)
    episodes: list[EpisodeRow] = field(default_factory=list)

    def take(self, other: "Recorded") -> None:
        """Becomes equal to ``other``, in place."""
        self.rows[:], self.episodes[:] = other.rows, other.episodes


def state_of(trainer: Trainer, recorded: Recorded) -> dict[str, Any]:
    """Everything that changes during a run, to be saved; not a copy."""
    model, stepper = trainer.model, trainer.stepper
    weights, optimizer = model.state_dict(), stepper.optimizer.state_dict()
    rows = recorded.rows
    return {
        "model": weights,
        "buffers": {n: kept for n, kept in model.named_buffers() if n not in weights},
        "alive": dict(trainer.refinement.masks),
        "refinement": _without_masks(trainer.refinement.state_dict()),
        "optimizer": optimizer["state"],
        "groups": optimizer["param_groups"],
        "scaler": stepper.precision.state_dict(),
        "order": trainer.generator.get_state(),
        "learning_rate": trainer.learning_rate.state_dict(),
        "random": random_state(),
        "position": vars(trainer.at),
        "epochs": [asdict(row) for row in rows if isinstance(row, EpochRow)],
        "cycle_rows": [asdict(row) for row in rows if isinstance(row, CycleRow)],
        "episodes": [asdict(row) for row in recorded.episodes],
    }


def _without_masks(state: dict[str, Any]) -> dict[str, Any]:
    own = ("masks", "shapes", "first")  # the network beside it has these
    return {name: value for name, value in state.items() if name not in own}


def restore_(trainer: Trainer, state: dict[str, Any]) -> Recorded:
    """Restores ``state`` and returns what had been measured.

    The learning rate follows its curve from the start again, so that a run of more epochs than
    before has the rates of the longer curve from here on.
    """
    model, refinement, stepper = trainer.model, trainer.refinement, trainer.stepper
    own = state_of(trainer, Recorded())
    for part in ("refinement", "position", "learning_rate", "scaler"):
        check_alike(state[part], own[part], part)
    position = Position(**state["position"])
    position.check(trainer.course)
    refinement.reshape_({n: t.shape for n, t in (state["model"] | state["buffers"]).items()})
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for name, buffer in state["buffers"].items():
            model.get_buffer(name).copy_(buffer)
    refinement.masks.load_(state["alive"])
    refinement.load_state_dict(state["refinement"])
    for sums in (position.losses, position.right):
        sums[:] = [value.to(refinement.device) for value in sums]
    trainer.at.move_to(position)
    _restore_optimizer_(stepper.optimizer, trainer.learning_rate, state)
    stepper.precision.load_state_dict(state["scaler"])
    trainer.generator.set_state(state["order"])
    set_random_state(state["random"])
    return Recorded(rows(state), [EpisodeRow(**row) for row in state["episodes"]])


def _restore_optimizer_(
    optimizer: torch.optim.Optimizer, learning_rate: LearningRate, state: dict[str, Any]
) -> None:
    optimizer._opt_called = True  # type: ignore[attr-defined]  # else a rate before a step warns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learning_rate.follow_(state["learning_rate"])
    groups = optimizer.state_dict()["param_groups"]
    for group, before in zip(groups, state["groups"], strict=True):
        group |= {name: value for name, value in before.items() if name not in OF_THE_CURVE}
    optimizer_state.load_(optimizer, {"state": state["optimizer"], "param_groups": groups})
    learning_rate.load_state_dict(state["learning_rate"])


def rows(state: dict[str, Any]) -> Rows:
    """The rows in order: an epoch, then the cycle after it."""
    found: Rows = [EpochRow(**row) for row in state["epochs"]]
    found += [CycleRow(**row) for row in state["cycle_rows"]]
    return sorted(found, key=lambda row: (row.epoch, isinstance(row, CycleRow)))
