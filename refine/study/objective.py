"""Which of two trials is better, by validation accuracy and sparsity alone?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

POPULATION = 10  # of an NSGA-II generation; with Optuna's 50, most studies would have only one
ROUNDING = 0.0005  # sparsities are shown to 0.1 %, and a cut of whole weights may miss by one


@dataclass(frozen=True)
class Objective:
    """The highest validation accuracy among the trials with at least ``at_sparsity``, a fraction of
    all parameters; with None, the Pareto front of accuracy and sparsity."""

    at_sparsity: float | None

    @property
    def directions(self) -> list[StudyDirection]:
        """What Optuna does with each of the ``values``."""
        return [StudyDirection.MAXIMIZE] * (2 if self.at_sparsity is None else 1)

    def values(self, accuracy: float, sparsity: float) -> list[float]:
        """What Optuna maximises. The value of a trial that misses the sparsity is negative, by how
        much it misses: it is below every trial that reaches it, and the nearer the better."""
        if self.at_sparsity is None:
            return [accuracy, sparsity]
        missing = self.at_sparsity - sparsity
        return [accuracy if missing <= ROUNDING else -missing]

    def ranked(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The finished trials that reach the sparsity, the most accurate first."""
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        reached = [trial for trial in finished if trial.values[0] >= 0]
        return sorted(reached, key=lambda trial: [*(-v for v in trial.values), trial.number])

    def best(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The best trial, or the Pareto front, the most accurate first; empty if none reaches the
        sparsity."""
        ranked = self.ranked(trials)
        if self.at_sparsity is not None:
            return ranked[:1]
        front: list[FrozenTrial] = []
        for trial in ranked:
            if not front or trial.values[1] > front[-1].values[1]:
                front.append(trial)
        return front

    def sampler(self, seed: int, number: int) -> BaseSampler:
        """Proposes trial ``number``. Each has its own random numbers, so that a continued study
        draws what an uninterrupted one would, and processes do not repeat each other."""
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        if self.at_sparsity is None:
            return NSGAIISampler(population_size=POPULATION, seed=own)
        return TPESampler(seed=own)

    def weak(self, trials: Sequence[FrozenTrial], trial: FrozenTrial, grace: int) -> bool:
        """Whether Optuna's median rule ends ``trial`` now, because its best validation accuracy is
        below the median, at this epoch, of the finished trials that reach the sparsity. Others do
        not count: a network of which little is cut is more accurate."""
        peers = optuna.create_study(directions=self.directions)
        peers.add_trials(self.ranked(trials))
        return optuna.pruners.MedianPruner(n_warmup_steps=grace + 1).prune(peers, trial)
