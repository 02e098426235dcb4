"""Which examples are in memory, and of which task?"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from refine.batches import Inputs
from refine.replay.class_means import ClassMeans
from refine.replay.storage import Candidates, Storage, persists

Rows = dict[str, Tensor]  # columns of one length: inputs, targets, and what a storage reads
INPUTS = "inputs"  # the column, or the beginning of the names of several
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

    def examples(self) -> tuple[Inputs, Tensor]:
        """All inputs and targets; not a copy if there is only one part."""
        rows, *others = self.parts
        names = [name for name in rows if name.startswith(INPUTS)] + ["targets"]
        if others:
            rows = {name: _joined([part[name] for part in self.parts]) for name in names}
        return _inputs({name: rows[name] for name in names[:-1]}), rows["targets"]

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
            names = [name for name in waiting[-1] if name != "ranks"]
            rows = {name: _joined([w[name].to(device) for w in waiting]) for name in names}
            read = {name: c for name, c in rows.items() if not name.startswith(INPUTS)}
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
        stays = [n for n in waiting[0] if n.startswith((INPUTS, "targets", "ranks", "draws"))]
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


def columns(inputs: Inputs) -> Rows:
    """The inputs of a batch as columns: a tensor, or the tensors of a mapping or tuple. ValueError
    for what no example can be taken out of."""
    if isinstance(inputs, Tensor):
        return {INPUTS: inputs}
    if not isinstance(inputs, Mapping) and type(inputs) not in (tuple, list):
        raise ValueError(f"a replay keeps only tensors, and cannot keep a {type(inputs).__name__}")
    entries = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    kind = "keyword" if isinstance(inputs, Mapping) else "position"
    found = {f"{INPUTS} {kind} {name}": value for name, value in entries if value is not None}
    if strange := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"a replay keeps only tensors, and {strange[0]} of the batches is none")
    return found


def _inputs(rows: Rows) -> Inputs:
    """The inverse of ``columns``."""
    if INPUTS in rows:
        return rows[INPUTS]
    named = {tuple(name.split(" ", 2)[1:]): column for name, column in rows.items()}
    if all(kind == "position" for kind, _ in named):
        return tuple(column for _, column in sorted(named.items(), key=lambda e: int(e[0][1])))
    return {name: column for (_, name), column in named.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(
            "a replay keeps examples of one size, and these differ from batch to batch: "
            f"{', '.join(sorted({str(tuple(part.shape[1:])) for part in parts}))}; "
            "pad or crop them to one size, or train without replay: replay=Replay(steps=0)"
        )
    return torch.cat(parts)


def _count(rows: Rows) -> int:
    return len(rows["targets"])


def _selected(rows: Rows, which: Tensor) -> Rows:
    return {name: column[which] for name, column in rows.items()}


def _renamed(rows: Rows, names: dict[str, str]) -> Rows:
    """The columns in the order of their new names."""
    return dict(sorted((names.get(name, name), column) for name, column in rows.items()))
