"""What happens in a refinement cycle, step by step?

``STEPS`` is the list. Each step is a function of one ``Cycle``: it reads the cycle's inputs and the
results of earlier steps from it, and stores its own results there. To add a step, write such a
function and put its name into ``STEPS``, or into the ``steps`` of one refinement.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from refine import parallel
from refine.batches import Batch, OnDevice, Samples
from refine.cache import Cache
from refine.cycle_report import CycleReport
from refine.distillation import Distillation
from refine.objective import Objective
from refine.pruning.method import CutMethod
from refine.regrowth import Regrown, Regrowth
from refine.regrowth.trial import trial
from refine.replay import Replayed, ReplaySource
from refine.replay.steps import ReplaySteps
from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import OptimizerWatch

__all__ = ["STEPS", "Cycle", "CycleReport", "Parts"]

Measure = Callable[[nn.Module], float]
Step = Callable[["Cycle"], None]
Tell = Callable[[str, int, int], None]


@dataclass
class Parts:
    """What a refinement consists of, for all of its cycles; ``cycles`` counts those it has done.

    tell: called as ``(step, done, of)`` when a step of a cycle begins, and as its replay goes on.
    """

    model: nn.Module
    watch: OptimizerWatch
    method: CutMethod[Any]
    regrowth: Regrowth
    distillation: Distillation
    cache: Cache | None
    replay: ReplaySource
    training: ReplaySteps
    loss: Objective
    cycles: int = 0
    tell: Tell = lambda step, done, of: None

    @property
    def masks(self) -> Masks:
        """Which weights live."""
        return self.watch.masks


@dataclass
class Cycle:
    """One cycle: its inputs, and the results of its steps so far.

    ratio: share of the survivors to cut; negative: the share of their number to grow back. batches:
    for the replay, None for no replay. samples: for scores. evaluate: accuracy for the report.
    validate: accuracy for choices. floor: the least that ``validate`` may give after the cut.
    may_grow: whether weights grow back in a cycle that cuts. recover: what the learning rate and
    the weights do after the cut.
    """

    parts: Parts
    ratio: float
    batches: OnDevice | None
    samples: Samples
    evaluate: Measure | None = None
    validate: Measure | None = None
    floor: float | None = None
    may_grow: bool = True
    recover: Callable[[], None] | None = None

    scores: dict[str, Tensor] = field(default_factory=dict)
    choice: Any = None
    cut: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    accuracy_after_cut: float | None = None
    accuracy_after_replay: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.validate = parallel.mean_of(self.validate)

    def run(self, steps: Sequence[Step]) -> None:
        """Runs the steps in order, and times each."""
        for step in steps:
            name, start = getattr(step, "__name__", repr(step)), time.perf_counter()
            self.parts.tell(name, 0, 0)
            with parallel.all_or_none():
                step(self)
            device = next(self.parts.model.parameters()).device
            if device.type == "cuda":  # kernels run asynchronously: wait for them
                torch.cuda.synchronize(device)
            self.seconds[name] = time.perf_counter() - start


def score(cycle: Cycle) -> None:
    """Scores the weights that may be cut; weights that were frozen train again."""
    method = cycle.parts.method
    cycle.parts.watch.train_all_()
    method.prepare(cycle.samples, cycle.parts.cycles)
    if cycle.ratio > 0:
        cycle.scores = method.scores(cycle.samples, cycle.parts.loss)


def choose(cycle: Cycle) -> None:
    """Chooses what is cut; with a floor, only as much as keeps the validation accuracy above it."""
    method = cycle.parts.method
    cycle.choice = method.choose(cycle.scores, cycle.ratio)
    if cycle.floor is not None and cycle.ratio > 0:
        cycle.ratio, cycle.choice = method.within(
            cycle.floor, cycle.validate, cycle.scores, cycle.ratio, cycle.choice
        )


def snapshot(cycle: Cycle) -> None:
    """Shows the network to the teacher and the cache; only now that no choice can fail."""
    parts = cycle.parts
    parts.distillation.before_cut(parts.model)
    if parts.cache is not None:
        parts.cache.before_cut(parts.cycles, parts.model, parts.masks)


def downscale(cycle: Cycle) -> None:
    """Scales the prunable weights down, where something may be cut."""
    if cycle.ratio >= 0 and (cycle.floor is None or cycle.ratio):
        cycle.parts.method.downscale_()


def cut(cycle: Cycle) -> None:
    """Cuts; from here on the cycle counts."""
    cycle.cut = cycle.parts.method.cut_(cycle.choice)
    cycle.parts.cycles += 1
    torch.clear_autocast_cache()  # of the weights before


def measure_cut(cycle: Cycle) -> None:
    """Measures the network that was cut."""
    if cycle.evaluate is not None:
        cycle.accuracy_after_cut = cycle.evaluate(cycle.parts.model)


def regrow(cycle: Cycle) -> None:
    """Lets cut weights live again; some regrowths then train only these for a while."""
    parts = cycle.parts
    cycle.grown = dict.fromkeys(parts.masks, 0)
    if not cycle.may_grow and cycle.ratio >= 0:
        return

    def reward(regrown: Regrown) -> float:
        if cycle.validate is None:
            raise ValueError("a controller needs validate, for accuracy on validation data")
        rate, steps = (
            parts.training.optimizers()[0].param_groups[0]["lr"],
            parts.regrowth.trial_steps,
        )
        return cycle.validate(
            trial(parts.model, parts.masks, regrown, cycle.samples, parts.loss, steps, rate)
        )

    count = round(-cycle.ratio * parts.masks.surviving) if cycle.ratio < 0 else None
    regrown = parts.regrowth.regrow_(
        parts.model, parts.masks, cycle.samples, parts.loss, reward, count
    )
    cycle.grown = regrown.counts
    if regrown.marked and parts.regrowth.only_epochs:
        parts.watch.train_only_(regrown.marked, parts.regrowth.only_epochs)


def recover(cycle: Cycle) -> None:
    """Starts the recovery of the learning rate and the weights."""
    if cycle.recover is not None:
        cycle.recover()
        cycle.parts.watch.freeze_anew_()


def replay(cycle: Cycle) -> None:
    """Trains on what the memory holds."""
    if cycle.batches is not None:
        parts, steps = cycle.parts, getattr(cycle.parts.replay, "steps", 0)
        drawn = parts.replay.batches(parts.model, cycle.batches)

        def told() -> Iterator[Batch | Replayed]:
            for step, batch in enumerate(drawn, 1):
                parts.tell("replay", step, steps)
                yield batch

        cycle.losses = parts.training.on(told())


def measure_replay(cycle: Cycle) -> None:
    """Measures the network again, if it has changed since the cut."""
    cycle.accuracy_after_replay = cycle.accuracy_after_cut
    changed = cycle.losses or any(cycle.grown.values()) or cycle.recover is not None
    if cycle.evaluate is not None and changed:
        cycle.accuracy_after_replay = cycle.evaluate(cycle.parts.model)


STEPS: tuple[Step, ...] = (
    score,
    choose,
    snapshot,
    downscale,
    cut,
    measure_cut,
    regrow,
    recover,
    replay,
    measure_replay,
)
