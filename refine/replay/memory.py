"""Which examples are in memory, and of which task?"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from refine.replay.class_means import ClassMeans
from refine.replay.storage import Candidates, Storage, persists

Rows = dict[str, Tensor]  # columns of one length: inputs, targets, and what a storage reads
SAVED_AS = {"draws": "lots"}  # a column's name in states, which older runs have written too
LOADED_AS = {saved: name for name, saved in SAVED_AS.items()}


class Memory:
    """Examples of the present task (``current``) and of the earlier ones (``closed``).

    Rows are in the order in which they came. The column ``ranks`` says which are worth most: 0 is
    the best.
    """

    def __init__(self) -> None:
        self.closed: list[Rows] = []
        self.current: Rows = {}

    @property
    def parts(self) -> list[Rows]:
        """The rows of every task that has any, the oldest task first."""
        return [*self.closed, *([self.current] if self.current else [])]

    def close(self) -> None:
        """Ends the present task: its examples stay beside those of the next."""
        self.closed, self.current = self.parts, {}

    def examples(self) -> tuple[Tensor, Tensor]:
        """All inputs and targets; not a copy if there is only one part."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0]["inputs"], parts[0]["targets"]
        inputs, targets = (torch.cat([p[name] for p in parts]) for name in ("inputs", "targets"))
        return inputs, targets

    def fill(self, arriving: Iterable[Rows], storage: Storage, size: int) -> None:
        """Keeps the best of what arrives, in one pass; in all parts together at most ``size``.

        Every task has the same quota, at least 1: closed parts are cut down to it, and the present
        one has the rest. At most twice ``size`` examples and a batch are held at a time. ValueError
        if nothing arrives.
        """
        quota = max(1, size // (len(self.closed) + 1))
        self.closed = [_selected(part, part["ranks"] < quota) for part in self.closed]
        room = max(1, size - sum(map(_count, self.closed)))
        waiting = [self.current] if self.current and persists(storage) else []
        self.current = {}  # so that it is not held beside its successor
        means, device = ClassMeans(), None

        def compact() -> None:
            columns = [name for name in waiting[-1] if name != "ranks"]
            rows = {name: torch.cat([w[name].to(device) for w in waiting]) for name in columns}
            read = {name: column for name, column in rows.items() if name != "inputs"}
            kept = storage(Candidates(**read, means=means), room).sort()
            waiting[:] = [_selected(rows, kept.values) | {"ranks": kept.indices}]

        for rows in arriving:
            device = rows["targets"].device
            if "features" in rows:
                means.add(rows["features"], rows["targets"])
            waiting.append(rows)
            if sum(map(_count, waiting)) >= 2 * room:
                compact()
        if device is None:
            raise ValueError("replay needs data, and the loader yielded no batch")
        compact()
        stays = {"inputs", "targets", "ranks", "draws"} & waiting[0].keys()
        self.current = {name: waiting[0][name] for name in sorted(stays)}
        for part in self.closed:  # a checkpoint's may be elsewhere
            part |= {name: column.to(device) for name, column in part.items()}

    def state_dict(self, current: bool) -> dict[str, Any]:
        """The closed parts, and the present one if it is asked for."""
        return {
            "closed": [_renamed(part, SAVED_AS) for part in self.closed],
            "current": _renamed(self.current, SAVED_AS) if current else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings it to a ``state_dict``."""
        self.closed = [_renamed(part, LOADED_AS) for part in state["closed"]]
        self.current = _renamed(state["current"], LOADED_AS)


def _count(rows: Rows) -> int:
    return len(rows["targets"])


def _selected(rows: Rows, which: Tensor) -> Rows:
    return {name: column[which] for name, column in rows.items()}


def _renamed(rows: Rows, names: dict[str, str]) -> Rows:
    """The columns in the order of their new names."""
    return dict(sorted((names.get(name, name), column) for name, column in rows.items()))
