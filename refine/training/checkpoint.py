"""How is the state of a run written to a file and read again, whole or not at all?

A checkpoint is a dictionary of tensors, numbers and text in torch's format, behind a line with its
SHA-256: damage is seen before anything is read, and reading it executes nothing.
"""

import errno
import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from refine.cache.network import header, ties
from refine.errors import SettingError
from refine.records.files import written_whole
from refine.records.rows import CHECKPOINT_FILES, EPOCHS_FILE

log = logging.getLogger("refine")
MAGIC = b"runtime-refinement checkpoint 2, sha256 "
OLD_MAGIC = b"runtime-refinement checkpoint 1, sha256 "  # of 0.1.0, with another layout
NONE_KEPT = (
    "the run has no checkpoint (checkpoint.every=0 saves none, and a finished run keeps one only "
    "with checkpoint.keep=true)"
)


class Damaged(Exception):
    """Why a checkpoint cannot be read."""


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
            what = "; ".join(problems) or NONE_KEPT
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
