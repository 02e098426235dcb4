"""What does the picture of a study show, and does it leave out what is not there?"""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from refine.study import database as storage
from refine.study.objective import Objective
from refine.study.picture import importances, picture

LEARNING_RATES = FloatDistribution(0.0, 1.0)
CHOICES = CategoricalDistribution(["magnitude", "random"])


def trials(count: int, **changes):
    """Trials whose accuracy depends on the learning rate alone."""
    made = []
    for number in range(count):
        rate = number * 0.37 % 1
        settings = {"trainer.optimizer.lr": rate, "+pruner.importance": CHOICES.choices[number % 2]}
        kept = {storage.ACCURACY: 0.5 + 0.4 * rate, storage.SPARSITY: 0.5, **changes}
        trial = create_trial(
            params=settings,
            distributions={"trainer.optimizer.lr": LEARNING_RATES, "+pruner.importance": CHOICES},
            values=[kept[storage.ACCURACY]],
            user_attrs=kept,
        )
        trial.number = number
        made.append(trial)
    return made


def labels(figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_the_legend_names_only_what_is_there():
    few = trials(4)
    assert labels(picture(few, Objective(0.0))) == ["finished", "best so far"]
    few[2].state = TrialState.PRUNED
    assert labels(picture(few, Objective(0.0))) == ["finished", "stopped early", "best so far"]
    few[3].state = TrialState.FAIL
    few[3].user_attrs = few[3].user_attrs | {storage.PROBLEM: "no memory"}
    assert labels(picture(few, Objective(0.0)))[2] == "failed"
    assert labels(picture([], Objective(0.0))) == []
    assert labels(picture([], Objective(None))) == []


def test_the_best_so_far_goes_on_to_the_last_trial():
    few = trials(4)
    few[3].state = TrialState.PRUNED
    best = picture(few, Objective(0.0)).axes[0].lines[-1]
    assert list(best.get_xdata()) == [0, 1, 2, 3]
    assert list(best.get_ydata()) == pytest.approx([50, 64.8, 79.6, 79.6])


def test_settings_are_shown_with_their_importance_where_there_are_enough_trials():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert importances(trials(5), Objective(0.0)) == {}
    assert len(picture(trials(5), Objective(0.0)).axes) == 1
    enough = trials(24)
    found = importances(enough, Objective(0.0))
    assert [*found] == ["trainer.optimizer.lr", "pruner.importance"]
    assert found["trainer.optimizer.lr"] > 0.8
    _, below = picture(enough, Objective(0.0)).axes
    assert [name.get_text() for name in below.get_yticklabels()] == [*found]
    assert [bar.get_width() for bar in below.patches] == pytest.approx(
        [100 * share for share in found.values()]
    )
    same = trials(12, **{storage.ACCURACY: 0.7})
    assert importances(same, Objective(0.0)) == {}
