"""How good were the trials of a study, and which settings made the difference?"""

from collections.abc import Sequence
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from refine.plain import of_picture
from refine.report.style import (
    COLOURS,
    GREY,
    HEIGHT,
    LABEL,
    LINE,
    SMALL,
    WIDTH,
    labelled,
    plain_axes,
)
from refine.study import database as storage
from refine.study.objective import Objective

ENOUGH = 10  # finished trials; importances of fewer would be those of chance
MOST = 10  # settings that are shown


def picture(trials: Sequence[FrozenTrial], objective: Objective) -> Figure:
    """Validation accuracy against sparsity, with the Pareto front; with one objective, that of each
    trial in their order, and the best so far. Below it, how much each setting mattered."""
    mattered = importances(trials, objective)
    below = 0.75 + 0.2 * len(mattered) if mattered else 0.0
    figure = Figure(figsize=(WIDTH, HEIGHT + below), layout="constrained")
    if mattered:
        axes, bars = figure.subplots(2, 1, height_ratios=[HEIGHT, below])
        _bars(bars, mattered)
    else:
        axes = figure.subplots()
    plain_axes(axes)
    measured = [trial for trial in trials if storage.ACCURACY in trial.user_attrs]
    if objective.at_sparsity is None:
        _front(axes, measured, objective.best(trials))
    else:
        _in_order(axes, measured, objective.ranked(trials))
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.set_figheight(figure.get_figheight() + LINE * (1 + (len(handles) - 1) // 2))
        axes.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            fontsize=SMALL,
            frameon=False,
            ncols=2,
        )
    return figure


def _front(axes: Axes, measured: Sequence[FrozenTrial], front: Sequence[FrozenTrial]) -> None:
    labelled(axes, "sparsity (% of all parameters)", "validation accuracy (%)")
    others = [trial for trial in measured if trial not in front]
    _dots(axes, others, storage.SPARSITY, "other trials", marker=".", color=GREY)
    if front:
        x, y = _points(front, storage.SPARSITY)
        axes.plot(x, y, "o-", ms=4, lw=1.2, color=COLOURS[0], label="front")


def _in_order(axes: Axes, measured: Sequence[FrozenTrial], ranked: Sequence[FrozenTrial]) -> None:
    labelled(axes, "trial", "validation accuracy (%)")
    reached = sorted(ranked, key=lambda trial: trial.number)
    stopped = [trial for trial in measured if trial.state == TrialState.PRUNED]
    others = [trial for trial in measured if trial not in reached and trial not in stopped]
    failed = [trial for trial in others if storage.PROBLEM in trial.user_attrs]
    dense = [trial for trial in others if trial not in failed]
    _dots(axes, reached, None, "finished", marker="o", ms=4, color=COLOURS[0])
    _dots(axes, stopped, None, "stopped early", marker="x", ms=4, color=GREY)
    _dots(axes, dense, None, "too dense", marker="o", ms=4, color=GREY, mfc="none")
    _dots(axes, failed, None, "failed", marker="s", ms=3.5, color=COLOURS[3])
    if reached:
        numbers, accuracies = _points(reached)
        so_far = [max(accuracies[: n + 1]) for n in range(len(accuracies))]
        numbers.append(max(numbers[-1], *(trial.number for trial in measured)))
        so_far.append(so_far[-1])
        axes.step(numbers, so_far, where="post", color=COLOURS[1], lw=1.2, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(
    axes: Axes, trials: Sequence[FrozenTrial], x: str | None, label: str, **style: Any
) -> None:
    """Points for the trials, if there are any; what is not there needs no place in the legend."""
    if trials:
        axes.plot(*_points(trials, x), linestyle="none", label=label, **style)


def _points(trials: Sequence[FrozenTrial], x: str | None = None) -> tuple[list[float], list[float]]:
    """The trials' numbers, or their ``x`` in per cent, and their accuracies in per cent."""
    across: list[float] = [100 * trial.user_attrs[x] if x else trial.number for trial in trials]
    return across, [100 * trial.user_attrs[storage.ACCURACY] for trial in trials]


def importances(trials: Sequence[FrozenTrial], objective: Objective) -> dict[str, float]:
    """The share of each searched setting in how the validation accuracy of the finished trials
    varies (fANOVA, Hutter et al. 2014), greatest first; empty where it cannot be told."""
    finished = objective.ranked(trials)
    names = {*finished[0].params} if finished else set()
    if len(finished) < ENOUGH or len(names) < 2:
        return {}
    study = optuna.create_study(directions=objective.directions)
    study.add_trials(finished)
    try:
        found = get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            target=lambda trial: float(trial.user_attrs[storage.ACCURACY]),
        )
    except (ValueError, RuntimeError):  # all are equally accurate, or share no setting
        return {}
    shares = {name.lstrip("+"): share for name, share in list(found.items())[:MOST]}
    return shares if any(shares.values()) else {}


def _bars(axes: Axes, shares: dict[str, float]) -> None:
    plain_axes(axes)
    axes.grid(visible=False, axis="y")
    names = [of_picture(name) for name in shares]
    percent = [100 * share for share in shares.values()]
    bars = axes.barh(names, percent, height=0.6, color=COLOURS[0])
    axes.bar_label(bars, fmt="%.0f", fontsize=SMALL, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("share of the variation in accuracy (%)", fontsize=LABEL)
