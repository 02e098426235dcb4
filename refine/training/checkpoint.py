"""What does a run consist of, and how is it saved and loaded, whole or not at all?

A checkpoint is a dictionary of tensors, numbers and text in torch's format, behind a line with its
SHA-256: damage is seen before anything is read, and reading it executes nothing.
"""

import errno
import hashlib
import io
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from refine.errors import SettingError
from refine.records.files import written_whole
from refine.records.rows import CHECKPOINT_FILES, CycleRow, EpisodeRow, EpochRow
from refine.recovery import WeightRewind
from refine.refinement import RuntimeRefinement
from refine.rng import random_state, set_random_state
from refine.training.learning_rate import LearningRate
from refine.training.position import Position
from refine.training.step import Stepper

MAGIC = b"runtime-refinement checkpoint 1, sha256 "
# What a learning rate's curve may set in an optimizer's groups; the rest is the optimizer's own.
OF_THE_CURVE = (
    "params", "lr", "initial_lr", "max_lr", "min_lr", "momentum", "base_momentum", "max_momentum",
    "betas",
)  # fmt: skip
Rows = list[EpochRow | CycleRow]


class Damaged(Exception):
    """Why a checkpoint cannot be read."""


@dataclass
class Parts:
    """What changes while a run goes on; ``rows`` is what it has measured so far."""

    stepper: Stepper
    learning_rate: LearningRate
    rewind: WeightRewind | None
    refinement: RuntimeRefinement
    generator: torch.Generator
    position: Position
    rows: Rows = field(default_factory=list)
    episodes: list[EpisodeRow] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """All of it, to be saved; not a copy."""
        model, optimizer = self.refinement.model, self.stepper.optimizer.state_dict()
        weights = model.state_dict()
        return {
            "model": weights,
            "buffers": {n: kept for n, kept in model.named_buffers() if n not in weights},
            "alive": dict(self.refinement.masks),
            "refinement": self.refinement.state_dict(),
            "optimizer": optimizer["state"],
            "groups": optimizer["param_groups"],
            "scaler": self.stepper.precision.state_dict(),
            "order": self.generator.get_state(),
            "replay": self.refinement.replay.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "rewind": self.rewind.state_dict() if self.rewind else {},
            "random": random_state(),
            "position": vars(self.position),
            "epochs": [asdict(row) for row in self.rows if isinstance(row, EpochRow)],
            "episodes": [asdict(row) for row in self.episodes],
            "cycle_rows": [asdict(row) for row in self.rows if isinstance(row, CycleRow)],
        }

    def restore_(self, state: dict[str, Any]) -> None:
        """Brings all of it to where ``state`` was taken.

        The learning rate follows its curve from the start again, so that a run of more epochs than
        before has the rates of the longer curve from here on.
        """
        model = self.refinement.model
        sizes = {n: t.shape for n, t in (state["model"] | state["buffers"]).items()}
        self.refinement.reshape_(sizes)
        model.load_state_dict(state["model"])
        with torch.no_grad():
            for name, buffer in state["buffers"].items():
                model.get_buffer(name).copy_(buffer)
        masks = self.refinement.masks
        masks.load_(state["alive"])
        self.refinement.load_state_dict(state["refinement"])
        position = Position(**state["position"])
        for sums in (position.losses, position.right):
            sums[:] = [value.to(self.refinement.device) for value in sums]
        vars(self.position).update(vars(position))
        self.stepper.optimizer._opt_called = True  # else torch warns of a rate before a step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.learning_rate.follow_(state["learning_rate"])
        optimizer = self.stepper.optimizer
        groups = optimizer.state_dict()["param_groups"]
        for group, before in zip(groups, state["groups"], strict=True):
            group |= {name: value for name, value in before.items() if name not in OF_THE_CURVE}
        optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.learning_rate.load_state_dict(state["learning_rate"])
        if self.rewind:
            self.rewind.load_state_dict(state["rewind"])
        self.stepper.precision.load_state_dict(state["scaler"])
        self.generator.set_state(state["order"])
        self.refinement.replay.load_state_dict(state["replay"])
        set_random_state(state["random"])
        self.rows[:] = rows(state)
        self.episodes[:] = [EpisodeRow(**row) for row in state["episodes"]]


def rows(state: dict[str, Any]) -> Rows:
    """What had been measured, in its order: an epoch, then the cycle after it."""
    found: Rows = [EpochRow(**row) for row in state["epochs"]]
    found += [CycleRow(**row) for row in state["cycle_rows"]]
    return sorted(found, key=lambda row: (row.epoch, isinstance(row, CycleRow)))


class Checkpoints:
    """The two checkpoints of a run's directory: the latest, and the one before it."""

    def __init__(self, directory: Path):
        self.latest, self.before = (directory / name for name in CHECKPOINT_FILES)
        self._proven = False  # that what is saved here can be loaded
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


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file, on the CPU; Damaged if it is not what was written."""
    content = path.read_bytes()
    head, _, body = content.partition(b"\n")
    if not head.startswith(MAGIC):
        raise Damaged("is no checkpoint, or cut short")
    if hashlib.sha256(body).hexdigest().encode() != head.removeprefix(MAGIC):
        raise Damaged("is damaged: its checksum is another")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged checksum; torch refuses in several ways
        raise Damaged(f"cannot be read: {str(error).splitlines()[0]:.100}") from error
    if not isinstance(state, dict):
        raise Damaged("is none of a run")
    return state


def _prove(content: memoryview) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise SettingError(
            "checkpoint.every",
            "the state of this model or optimizer holds more than tensors, numbers and text and "
            f"could not be loaded again ({str(error).splitlines()[0]:.80}); 0 saves no checkpoints",
        ) from error


def save_model(model: nn.Module, path: Path) -> None:
    """Writes the parameters and buffers of ``model`` to a safetensors file, whole or not at all.

    ``safetensors.torch.load_model(model, path)`` reads it; nothing in it is executed. Tensors that
    share their memory are written once.
    """
    with written_whole(path) as part:
        try:
            safetensors.torch.save_model(model, str(part))
        except safetensors.SafetensorError as error:  # how it says that the disk is full
            raise OSError(errno.EIO, str(error)) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingError(
                "save_model",
                f"this network's state is more than tensors ({error}); false leaves it out",
            ) from error
