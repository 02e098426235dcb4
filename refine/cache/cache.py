"""What did each cycle cut, and what of it can be restored?"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refine.cache import network
from refine.cache.coding import Marked, decoded, encoded, packed, unpacked
from refine.cache.files import CUT, NETWORK, named, path_of
from refine.records.files import written_whole
from refine.regrowth.reference import Reference
from refine.sparsity.masks import Masks
from refine.sparsity.ranking import highest
from refine.sparsity.shrink import Smaller


class Cache:
    """Keeps what cycles cut, compressed, and gives it back to the bit.

    directory: where to write a file for each cycle, and the networks of ``keep_network``; None
        keeps all in memory. It is made when something is kept. Files that are already there are
        used only after ``load_state_dict``.

    If a whole channel is cut, what is attached to it, such as its bias, is kept too.
    """

    def __init__(self, directory: Path | None = None):
        self.directory = directory
        self._entries: dict[int, bytes | None] = {}  # None: in a file

    @property
    def cycles(self) -> list[int]:
        """The cycles that have an entry."""
        return sorted(self._entries)

    @property
    def bytes(self) -> int:
        """The compressed size of all entries."""
        return sum(map(self.bytes_of, self._entries))

    def bytes_of(self, cycle: int) -> int:
        """The compressed size of a cycle's entry."""
        content = self._known(cycle)
        with named(self._place(cycle)):
            return len(content or b"") or self._path(cycle).stat().st_size

    @torch.no_grad()
    def note_cut(
        self, cycle: int, model: nn.Module, masks: Masks, marked: Mapping[str, Tensor]
    ) -> None:
        """Called just before ``masks.cut_(marked)`` of the cycle, counted from 1: keeps the weights
        that are about to be cut. A cycle that is repeated replaces its entry."""
        weights, parts = masks.weights(), {}
        for name, going in marked.items():
            weight = weights[name].detach()
            lost = going.to(weight.device) & masks[name].to(weight.device)
            if lost.any():
                parts[name] = lost, weight[lost]
        for name, (lost, parameter) in masks.going_with(marked).items():
            parts[name] = lost, parameter.detach()[lost]
        content = encoded(packed(parts))
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            with written_whole(path_of(self.directory, CUT, cycle)) as part:
                part.write_bytes(content)
        self._entries[cycle] = content if self.directory is None else None

    def entry(self, cycle: int) -> dict[str, Marked]:
        """What a cycle cut: of each tensor that lost weights a mask, and the values in the order
        of the index, on the CPU. ValueError if there is no such cycle, or its file is damaged."""
        content = self._known(cycle)
        with named(self._place(cycle)):
            content = content or self._path(cycle).read_bytes()
            return unpacked(decoded(content)[0])

    def restorable(
        self,
        masks: Masks,
        cycles: Iterable[int] | None = None,
        names: Iterable[str] | None = None,
        share: float = 1.0,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The arguments with which ``masks.grow_`` restores cut weights with their values.

        Of the weights that are cut now, those that ``cycles`` cut (None: any), in tensors that fit
        one of the globs ``names`` (None: all); of these the ``share`` of greatest magnitude. A
        weight that was cut several times has its latest value. ValueError for an unknown cycle, a
        glob that fits nothing, a share outside [0, 1], or an entry of another network.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {share}")
        wanted = set(masks) if names is None else _fitting(names, masks)
        along: dict[str, tuple[Tensor, Tensor]] = {}
        latest: dict[str, Tensor] = {}
        where: dict[str, Tensor] = {}
        weights = masks.weights()
        for cycle in self.cycles if cycles is None else sorted(set(cycles)):
            for name, (mask, values) in self.entry(cycle).items():
                if name in masks.attached:
                    if masks.attached[name] in wanted:
                        before, kept = along.get(name, (torch.zeros_like(mask), None))
                        kept = torch.zeros(mask.shape, dtype=values.dtype) if kept is None else kept
                        kept[mask] = values
                        along[name] = before | mask, kept
                    continue
                if name not in masks or masks[name].shape != mask.shape:
                    raise ValueError(f"{self._place(cycle)} is of another network: {name}")
                if name in wanted:
                    if name not in latest:
                        latest[name] = torch.zeros(mask.shape, dtype=weights[name].dtype)
                        where[name] = torch.zeros_like(mask)
                    latest[name][mask] = values.to(latest[name].dtype)
                    where[name] |= mask
        # In the order of the masks, which decides between equal magnitudes.
        where = {name: where[name] & ~alive.cpu() for name, alive in masks.items() if name in where}
        total = sum(int(mask.count_nonzero()) for mask in where.values())
        # Fraction: 0.29 of 50 is 14.5, which is rounded up, and not 14.499...
        count = floor(Fraction(str(share)) * total + Fraction(1, 2))
        if count < total:
            where = highest({name: values.abs() for name, values in latest.items()}, where, count)
        marked = {name: mask for name, mask in where.items() if mask.any()}
        chosen = {name: latest[name][mask] for name, mask in marked.items()}
        homes = {name: weights[name].device for name in marked}
        for name, (mask, kept) in along.items():
            homes[name] = masks.lives(name).device
            marked[name] = mask & ~masks.lives(name).cpu()
            chosen[name] = kept[marked[name]]
        return (
            {name: mask.to(homes[name]) for name, mask in marked.items()},
            {name: value.to(homes[name]) for name, value in chosen.items()},
        )

    @torch.no_grad()
    def denser(self, model: nn.Module, masks: Masks) -> Reference:
        """The network with all cut weights restored, each with its latest value."""
        now = Reference.of(model, masks)
        marked, values = self.restorable(masks)
        alive = dict(now.masks)
        for name, coming in marked.items():
            if name in masks.attached:
                continue
            now.values[name][coming] = values[name]
            alive[name] = alive[name].to(coming.device) | coming
        return Reference(now.values, alive, now.others)

    def before_cut(self, cycles_done: int, model: nn.Module, masks: Masks) -> None:
        """Called just before a cycle changes the network, after ``cycles_done`` cycles: keeps the
        whole network, if there is a directory."""
        if self.directory is not None:
            self.keep_network(cycles_done, model, masks)

    def keep_network(self, cycles_done: int, model: nn.Module, masks: Masks) -> None:
        """Writes the whole network as it is after ``cycles_done`` cycles. ValueError
        without a directory; SettingError if the network's state is more than tensors."""
        if self.directory is None:
            raise ValueError("a cache in memory keeps no networks; give it a directory")
        network.keep(path_of(self.directory, NETWORK, cycles_done), model, masks)

    def state_dict(self) -> dict[str, Any]:
        """The cycles, and the entries that are in memory, without those in files."""
        entries = {
            cycle: torch.frombuffer(bytearray(content), dtype=torch.uint8)
            for cycle, content in self._entries.items()
            if content is not None
        }
        return {"cycles": self.cycles, "entries": entries}

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Does nothing: channels that were taken out are not kept."""

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Restores a ``state_dict``. A missing file is an error only when it is used."""
        self._entries = dict.fromkeys(state["cycles"])
        for cycle, content in state["entries"].items():
            self._entries[cycle] = np.asarray(content.cpu()).tobytes()

    def _place(self, cycle: int) -> str:
        return f"what cycle {cycle} cut" if self.directory is None else str(self._path(cycle))

    def _path(self, cycle: int) -> Path:
        if self.directory is None:
            raise ValueError(f"what cycle {cycle} cut is in a file, and this cache is in memory")
        return path_of(self.directory, CUT, cycle)

    def _known(self, cycle: int):
        """A cycle's entry, None if it is in a file."""
        if cycle not in self._entries:
            there = ", ".join(map(str, self.cycles)) or "none"
            raise ValueError(f"nothing that cycle {cycle} cut is kept; cycles that are: {there}")
        if self._entries[cycle] is None and self.directory is None:
            raise ValueError(f"what cycle {cycle} cut is in a file, and this cache is in memory")
        return self._entries[cycle]


def _fitting(globs: Iterable[str], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for glob in [globs] if isinstance(globs, str) else globs:
        fits = {name for name in names if fnmatchcase(name, glob)}
        if not fits:
            raise ValueError(f"{glob!r} fits none of the tensors {', '.join(names)}")
        found |= fits
    return found
