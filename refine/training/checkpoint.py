"""What is the state of a run, and how is it saved and restored, whole or not at all?

A checkpoint is a dictionary of tensors, numbers and text in torch's format, behind a line with its
SHA-256: damage is seen before anything is read, and reading it executes nothing.
"""

import errno
import hashlib
import io
import logging
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from refine.cache.network import header, ties
from refine.errors import SettingError
from refine.records.files import written_whole
from refine.records.rows import CHECKPOINT_FILES, EPOCHS_FILE, CycleRow, EpisodeRow, EpochRow
from refine.rng import random_state, set_random_state
from refine.training.learning_rate import LearningRate
from refine.training.position import Position
from refine.training.trainer import Trainer

log = logging.getLogger("refine")
MAGIC = b"runtime-refinement checkpoint 2, sha256 "
OLD_MAGIC = b"runtime-refinement checkpoint 1, sha256 "  # of 0.1.0, with another layout
# What a learning rate's curve may set in an optimizer's groups; the rest is the optimizer's own.
OF_THE_CURVE = (
    "params", "lr", "initial_lr", "max_lr", "min_lr", "momentum", "base_momentum", "max_momentum",
    "betas",
)  # fmt: skip
Rows = list[EpochRow | CycleRow]


class Damaged(Exception):
    """Why a checkpoint cannot be read."""


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
    refinement.reshape_({n: t.shape for n, t in (state["model"] | state["buffers"]).items()})
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for name, buffer in state["buffers"].items():
            model.get_buffer(name).copy_(buffer)
    refinement.masks.load_(state["alive"])
    refinement.load_state_dict(state["refinement"])
    position = Position(**state["position"])
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
    optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
    learning_rate.load_state_dict(state["learning_rate"])


def rows(state: dict[str, Any]) -> Rows:
    """The rows in order: an epoch, then the cycle after it."""
    found: Rows = [EpochRow(**row) for row in state["epochs"]]
    found += [CycleRow(**row) for row in state["cycle_rows"]]
    return sorted(found, key=lambda row: (row.epoch, isinstance(row, CycleRow)))


class Checkpoints:
    """The two checkpoints of a run's directory: the latest, and the one before it."""

    def __init__(self, directory: Path):
        self.latest, self.before = (directory / name for name in CHECKPOINT_FILES)
        self._proven = False  # whether a saved state has been loaded once
        self._latest_is_whole = True

    def save(self, state: dict[str, Any]) -> None:
        """Saves ``state``; the checkpoint before it stays until this one is whole."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        if not self._proven:
            _prove(content)
            self._proven = True
        with written_whole(self.latest) as part:
            with part.open("wb") as file:
                file.write(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n")
                file.write(content)
            if self._latest_is_whole and self.latest.exists():
                self.latest.replace(self.before)
        self._latest_is_whole = True

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The latest checkpoint that is whole, if there is one, and what is wrong with the
        others."""
        problems = []
        for path in (self.latest, self.before):
            try:
                state = read(path)
            except FileNotFoundError:
                continue
            except Damaged as reason:
                problems.append(f"{path} {reason}")
                self._latest_is_whole = False
            else:
                return state, problems
        return None, problems

    def earlier(self, insist: bool) -> dict[str, Any] | None:
        """The state that an earlier part of the run has saved, if any. If ``insist``, SettingError
        when its checkpoints cannot be read, or it saved none."""
        state, problems = self.load()
        for problem in problems:
            log.warning("%s", problem)
        directory = self.latest.parent
        if state is None and insist and (problems or (directory / EPOCHS_FILE).exists()):
            what = "; ".join(problems) or "it was run with checkpoint.every=0"
            raise SettingError(
                "resume",
                f"there is nothing to resume in {directory}: {what}. "
                f"refine-run --config-path {directory} runs it from the start",
            )
        return state


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file, on the CPU; Damaged if it is not what was written."""
    content = path.read_bytes()
    head, _, body = content.partition(b"\n")
    magic = OLD_MAGIC if head.startswith(OLD_MAGIC) else MAGIC
    if not head.startswith(magic):
        raise Damaged("is no checkpoint, or cut short")
    if hashlib.sha256(body).hexdigest().encode() != head.removeprefix(magic):
        raise Damaged("is damaged: its checksum is another")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged checksum; torch refuses in several ways
        raise Damaged(f"cannot be read: {str(error).splitlines()[0]:.100}") from error
    if not isinstance(state, dict):
        raise Damaged("is not the checkpoint of a run")
    return state if magic == MAGIC else _from_0_1_0(state)


def _from_0_1_0(state: dict[str, Any]) -> dict[str, Any]:
    """A state that version 0.1.0 saved, in the present layout."""
    try:
        old = state["refinement"]
        names = ("distillation", "cache", "regularizer")
        parts = {name: old[name] for name in names} | {"rewind": state.pop("rewind")}
        parts["regrowth"] = old["regrowth"] | {"first": old["reference"]}
        frozen = {"free": old["free"], "epochs": old["only_epochs"]}
        kept = {name: old[name] for name in ("cycles", "importance")}
        new = kept | {"frozen": frozen, "replay": state.pop("replay"), "followers": parts}
        return state | {"refinement": new, "learning_rate": state["learning_rate"]}
    except (KeyError, TypeError):
        problem = "its checkpoint is of an earlier version of this program"
        raise SettingError("resume", problem) from None


def _prove(content: memoryview) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise SettingError(
            "checkpoint.every",
            "the state of this model or optimizer holds more than tensors, numbers and text and "
            f"could not be loaded again ({str(error).splitlines()[0]:.80}); 0 saves no checkpoints",
        ) from error


def save_model(model: nn.Module, path: Path, about: str | None = None) -> None:
    """Writes the parameters and buffers of ``model`` to a safetensors file, whole or not at all.

    ``safetensors.torch.load_model(model, path)`` reads it; nothing in it is executed. Tensors that
    share their memory are written once. ``about``: a description, as text, for the file's header.
    """
    with written_whole(path) as part:
        try:
            head = header(ties(model.state_dict()), about)
            safetensors.torch.save_model(model, str(part), head)
        except safetensors.SafetensorError as error:  # how it says that the disk is full
            raise OSError(errno.EIO, str(error)) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingError(
                "save_model",
                f"this network's state is more than tensors ({error}); false leaves it out",
            ) from error
