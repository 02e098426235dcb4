"""How does a teacher enter the loss?"""

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Inputs, taken
from refine.distillation.matching import Match, answer, logits
from refine.distillation.task import Comparison, comparison
from refine.distillation.teacher import Dense, Ema, Teacher, frozen, tensors
from refine.objective import Objective, outputs
from refine.sparsity.shrink import Smaller, reshape_, smaller_


class Distillation:
    """Blends the loss with the distance from a teacher: (1 - weight) loss + weight distance.

    >>> distillation = Distillation(Self(), during="cycle")
    >>> refinement = RuntimeRefinement(model, distillation=distillation)
    >>> outputs, matched = distillation.forward(model, inputs)       # in one's own training step
    >>> loss = distillation.blended(cross_entropy(outputs, targets), matched, inputs)

    ``RuntimeRefinement`` itself uses the teacher in a cycle's replay; the last two lines are for
    ``during="cycle"``, where the teacher stays until the next cycle. Without a teacher, or before
    the first cut, they give ``model(inputs)`` and the plain loss.

    match: ``logits`` or ``features``, or a function like these. ``logits`` compares classes,
        answers of yes or no, or values, as the loss and the first batch's targets tell (task.py).
    temperature: what logits are divided by. A teacher that does not change is evaluated once for
        each example of the memory.

    ValueError for a setting out of its range, and for features of a network without a linear layer.
    """

    def __init__(
        self,
        teacher: Teacher | None = None,
        match: Match = logits,
        *,
        temperature: float = 2.0,
        weight: float = 0.5,
        during: str = "replay",
    ):
        if during not in ("replay", "cycle"):
            raise ValueError(f"during must be replay or cycle, not {during!r}")
        if not (temperature > 0 and isfinite(temperature) and 0 <= weight <= 1):
            raise ValueError(
                "temperature must be above 0 and weight from 0 to 1, not "
                f"{temperature} and {weight}"
            )
        self.teacher, self.match = teacher, match
        self.temperature, self.weight, self.during = temperature, weight, during
        self._replaying = self._cut = False
        self._known: dict[str, Tensor] = {}
        self._compare: Comparison = match

    @property
    def active(self) -> bool:
        """Whether training steps use the teacher now."""
        return (
            self.teacher is not None and self._cut and (self._replaying or self.during == "cycle")
        )

    def fit(self, objective: Objective, made: Any, targets: Tensor) -> None:
        """To be called with a batch's outputs and targets before the first cut. ValueError if they
        do not tell how a teacher's are compared with them."""
        if self.teacher is not None and self.match is logits:
            self._compare = comparison(objective, made, targets)

    def before_cut(self, model: nn.Module) -> None:
        """To be called just before a cycle changes the network."""
        if self.teacher is not None:
            self.teacher.before_cut(model)
            self._cut = True

    def observe(self, model: nn.Module) -> None:
        """To be called after every training step, for a teacher that averages the network."""
        if self.teacher is not None:
            self.teacher.observe(model)

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Called when ``model`` has become ``smaller``: a teacher that averages it does too."""
        if isinstance(self.teacher, Ema) and self.teacher.network is not None:
            smaller_(self.teacher.network, smaller)

    def begin_replay(self) -> None:
        """The next steps are those of a replay, whose examples have places in a memory."""
        self._replaying, self._known = True, {}

    def end_replay(self) -> None:
        """The replay is over: the teacher's outputs in it are forgotten."""
        self._replaying, self._known = False, {}

    def forward(self, model: nn.Module, inputs: Inputs) -> tuple[Any, Tensor | None]:
        """The network's outputs, and what is matched with the teacher's: None if nothing is."""
        if not self.active:
            return outputs(model, inputs), None
        return answer(model, inputs, self.match)

    def blended(
        self, loss: Tensor, matched: Tensor | None, inputs: Inputs, places: Tensor | None = None
    ) -> Tensor:
        """The loss with the teacher's share. ``places``: positions of the examples in the cycle's
        memory, so that the teacher is evaluated only once for each."""
        if matched is None:
            return loss
        theirs = self._theirs(inputs, places)
        distance = self._compare(matched, theirs, self.temperature)
        return (1 - self.weight) * loss + self.weight * distance

    @torch.no_grad()
    def _theirs(self, inputs: Inputs, places: Tensor | None) -> Tensor:
        if self.teacher is None or self.teacher.network is None:
            raise RuntimeError("there is no teacher yet: no cycle has been seen")
        network = self.teacher.network
        if places is None or not self.teacher.steady:
            return answer(network, inputs, self.match)[1]
        room = int(places.max()) + 1
        known = self._known.get("known", torch.zeros(0, dtype=torch.bool, device=places.device))
        if len(known) < room:
            known = F.pad(known, (0, room - len(known)))
        new = ~known[places]
        if new.any():
            found = answer(network, taken(inputs, new), self.match)[1]
            kept = self._known.get("outputs", found.new_zeros(0, *found.shape[1:]))
            if len(kept) < len(known):
                kept = torch.cat([kept, kept.new_zeros(len(known) - len(kept), *kept.shape[1:])])
            kept[places[new]] = found
            known[places[new]] = True
            self._known = {"known": known, "outputs": kept}
        return self._known["outputs"][places]

    def state_dict(self) -> dict[str, Any]:
        """The teacher, if later steps need it, as tensors and numbers."""
        lasting = not isinstance(self.teacher, Dense) and (
            self.during == "cycle" or isinstance(self.teacher, Ema)
        )
        network = self.teacher.network if self.teacher is not None and lasting else None
        return {
            "cut": self._cut,
            "teacher": None if network is None else [t.detach() for t in tensors(network)],
        }

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Restores a ``state_dict`` of a network like ``model``."""
        self._cut = state["cut"]
        if state["teacher"] is not None and self.teacher is not None:
            network = self.teacher.network = frozen(model)
            names = [name for name, _ in (*network.named_parameters(), *network.named_buffers())]
            sizes = [tensor.shape for tensor in state["teacher"]]
            reshape_(network, dict(zip(names, sizes, strict=True)))
            network.requires_grad_(False)
            with torch.no_grad():
                for tensor, value in zip(tensors(network), state["teacher"], strict=True):
                    tensor.copy_(value)
