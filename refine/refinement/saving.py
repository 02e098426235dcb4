"""How is a refinement saved beside its network, and how does it go on from there?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from refine.cycle import Parts
from refine.pruning.importance import StatefulImportance
from refine.records.files import written_whole
from refine.regularization import Regularizer
from refine.sparsity.bits import packed, unpacked
from refine.sparsity.shrink import Follower, reshape_, shapes
from refine.sparsity.zeros import say_written


def save(
    path: Path | str,
    model: nn.Module,
    refinement: "Saved",
    optimizer: Optimizer | None = None,
) -> None:
    """Writes network, refinement and optimizer to one file, whole or not at all, for ``load``."""
    state = {
        "model": model.state_dict(),
        "refinement": refinement.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }
    with written_whole(Path(path)) as part:
        torch.save(state, part)


def load(
    path: Path | str,
    model: nn.Module,
    refinement: "Saved",
    optimizer: Optimizer | None = None,
) -> None:
    """Brings all three to what ``save`` has written; a network whose channels were taken out
    becomes as small as it was. Executes nothing in the file. ValueError if it is of another
    network, or not of ``save``."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.keys() != {"model", "refinement", "optimizer"}:
        raise ValueError(f"{path} was not written by refine.save")
    refinement.load_state_dict(state["refinement"])
    model.load_state_dict(state["model"])
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])


class Saved:
    """What a refinement does to be saved, copied and restored."""

    model: nn.Module
    parts: Parts
    importance: StatefulImportance
    followers: dict[str, Follower]
    _given: dict[str, Any]  # the arguments that it was made with
    _known: frozenset[str]  # the attributes that it had when it was made

    def state_dict(self) -> dict[str, Any]:
        """The state of the refinement and the masks of its network, without the weights, as
        tensors, numbers and text; not a copy."""
        parts = self.parts
        say_written(parts.watch)
        return {
            "masks": {name: packed(mask) for name, mask in parts.masks.items()},
            "shapes": {name: list(shape) for name, shape in shapes(self.model).items()},
            "first": {name: list(shape) for name, shape in parts.watch.at_first.items()},
            "cycles": parts.cycles,
            "frozen": parts.watch.frozen(),
            "importance": self.importance.state_dict(),
            "replay": parts.replay.state_dict(),
            "followers": {name: part.state_dict() for name, part in self.followers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a ``state_dict``, before or after the weights are loaded; before, if channels
        were taken out. One without masks leaves the masks as they are. ValueError, before anything
        changes, if it is of another network."""
        parts = self.parts
        if "masks" in state:
            self._fit_(state["masks"], state["shapes"])
            marks = {n: unpacked(b, state["shapes"][n]) for n, b in state["masks"].items()}
            parts.masks.load_(marks)
            parts.watch.began_as_(self.model, state["first"])
        parts.cycles = state["cycles"]
        parts.watch.train_only_(**state["frozen"])
        self.importance.load_state_dict(state["importance"])
        parts.replay.load_state_dict(state["replay"])
        for name, part in self.followers.items():
            part.load_state_dict(state["followers"][name], self.model)

    def reshape_(self, sizes: Mapping[str, Sequence[int]]) -> None:
        """Gives the model's tensors these sizes, by name, so that a smaller network can be loaded
        into it. ValueError if they do not fit this network."""
        watch = self.parts.watch
        if changed := reshape_(self.model, sizes):
            watch.masks.reset_()
            watch.fit_(changed)
            if isinstance(regularizer := self.followers.get("regularizer"), Regularizer):
                regularizer.forget()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, as of a module that has this object in an attribute."""
        names = vars(self).keys() - self._known | {"steps", "atomic"}
        others = {name: getattr(self, name) for name in names}
        return {
            "model": self.model, "given": self._given, "state": self.state_dict(), "others": others,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self)["_copied"] = state  # the model may not be complete yet

    def __getattr__(self, name: str) -> Any:
        """Completes a copy at its first use."""
        copied = vars(self).pop("_copied", None)
        if copied is None:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        self._begin(copied["model"], copied["given"])
        self.load_state_dict(copied["state"])
        vars(self).update(copied["others"])
        return getattr(self, name)

    def _begin(self, model: nn.Module, given: dict[str, Any]) -> None:
        raise NotImplementedError

    def _fit_(self, masks: Mapping[str, Any], sizes: Mapping[str, Sequence[int]]) -> None:
        """Gives the network the sizes that it had; only channels may be fewer than now."""
        here, alive = shapes(self.model), self.parts.masks
        if odd := sorted(set(masks) ^ set(alive)):
            where = "only in the state" if odd[0] in masks else "not in the state"
            raise ValueError(f"the state is of another network: {odd[0]} is prunable {where}")
        other = {n: tuple(s) for n, s in sizes.items() if n in here and tuple(s) != here[n]}
        for name, shape in other.items():
            fits = self.parts.method.takes_channels and len(shape) == len(here[name])
            if not fits or any(size > now for size, now in zip(shape, here[name], strict=True)):
                raise ValueError(
                    f"the state is of another network: {name} has the shape {shape} in it, and "
                    f"{here[name]} in this one"
                )
        if other:
            self.reshape_(other)
