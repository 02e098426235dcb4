import math
from dataclasses import fields

import pytest

from refine.errors import FieldError
from refine.schedule import (
    Adaptive,
    Cosine,
    Cubic,
    Cyclic,
    Geometric,
    Given,
    Listed,
    Never,
    OneShot,
    Periodic,
    ToTarget,
)

NETWORK = {"prunable": 581_728, "total": 582_346}  # the paper's


def walked(schedule, length=20):
    """The prunable weights that survive after each cycle, by the rule of an exact cut."""
    surviving, path = schedule.prunable, {}
    for at in range(length + 1):
        ratio = schedule.due(at, surviving)
        if ratio is not None and ratio > 0:
            surviving -= math.floor(ratio * (surviving - 1)) + 1
        elif ratio is not None:
            surviving += round(-ratio * surviving)
        if ratio is not None:
            path[at] = surviving
    return path


def cut(path, schedule):
    """Of all parameters."""
    return [(schedule.prunable - surviving) / schedule.total for surviving in path.values()]


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        (Periodic(0.15, 20), [5, 10, 15]),  # the paper: not after 20
        (Periodic(0.15, 20, stop=20), [5, 10, 15, 20]),
        (Periodic(0.15, 20, interval=3, start=1, stop=9), [1, 4, 7]),
        (Periodic(0.15, 20, interval=10, start=0), [0, 10]),
        (Periodic(0.15, 5), []),
        (OneShot(0.15, 20), [10]),
        (OneShot(0.15, 20, start=4), [4]),
        (OneShot(0.15, 20, start=0), [0]),
        (OneShot(0.15, 20, start=20), []),
        (OneShot(0.15, 20, start=20, stop=20), [20]),
        (Adaptive(0.15, 20), [5, 10, 15]),
        (Never(0.15, 20), []),
    ],
)
def test_when_cycles_are_due(schedule, epochs):
    due = {epoch: schedule.due(epoch, 100) for epoch in range(21)}
    assert [epoch for epoch, ratio in due.items() if ratio is not None] == epochs
    assert set(due.values()) <= {0.15, None}


def test_one_shot_cuts_as_much_as_its_cycles_would_or_to_a_target():
    assert OneShot(0.15, 20, cycles_at_once=3).due(10, 100) == pytest.approx(1 - 0.85**3)
    schedule = OneShot(0.15, 20, target_sparsity=0.9, **NETWORK)
    assert cut(walked(schedule), schedule) == pytest.approx([0.9], abs=1e-6)


def test_a_ratio_of_all_weights_takes_as_many_every_time():
    schedule = Periodic(0.2, 20, of="all", prunable=1000, total=1000)
    assert walked(schedule) == {5: 800, 10: 600, 15: 400}
    with pytest.raises(ValueError, match="leave nothing"):
        Periodic(0.4, 20, of="all", prunable=1000, total=1000)


def test_geometric_cuts_by_its_ratio_and_ends_at_its_target_to_the_unit():
    schedule = Geometric(0.4, 20, interval=2, target_sparsity=0.9, prunable=1000, total=1000)
    path = walked(schedule)
    assert list(path) == [2, 4, 6, 8, 10]  # 1 - 0.6^5 is above 0.9
    by_hand = [1000]
    for _ in range(4):
        by_hand.append(by_hand[-1] - math.floor(0.4 * (by_hand[-1] - 1)) - 1)
    assert list(path.values()) == [*by_hand[1:], 100]
    with pytest.raises(TypeError, match="'of'"):
        Geometric(0.4, 20, of="all", target_sparsity=0.9, prunable=1000, total=1000)


def test_cubic_reaches_its_target_with_the_published_curve():
    schedule = Cubic(0.15, 20, interval=2, start=2, stop=11, target_sparsity=0.9, **NETWORK)
    path = walked(schedule)
    assert list(path) == [2, 4, 6, 8, 10]
    curve = [0.9 * (1 - (1 - k / 5) ** 3) for k in range(1, 6)]
    assert cut(path, schedule) == pytest.approx(curve, abs=1e-6)  # half a weight of 582,346
    later = Cubic(
        0.15, 20, interval=2, start=2, stop=11, initial_sparsity=0.5, target_sparsity=0.9, **NETWORK
    )
    curve = [0.9 - 0.4 * (1 - k / 5) ** 3 for k in range(1, 6)]
    assert cut(walked(later), later) == pytest.approx(curve, abs=1e-6)


def test_a_list_goes_where_it_says_up_and_down():
    schedule = Listed(
        0.15, 20, at=[0, 3, 20], sparsities=[0.5, 0.9, 0.7], prunable=1000, total=1000
    )
    assert walked(schedule) == {0: 500, 3: 100, 20: 300}


def test_cyclic_grows_all_back_and_ends_at_its_target():
    schedule = Cyclic(
        0.15, 10, interval=1, target_sparsity=0.8, period=3, prunable=1000, total=1000
    )
    # nine cycles: two periods that grow back, and one before them
    assert list(walked(schedule, 10).values()) == [300, 200, 1000, 300, 200, 1000, 300, 200]
    with pytest.raises(ValueError, match="period must be from 2 to the 3"):
        Cyclic(0.15, 4, interval=1, target_sparsity=0.8, period=4, prunable=9, total=9)


def test_cosine_falls_from_its_ratio_to_nothing():
    schedule = Cosine(0.3, 100, interval=10)
    ratios = [schedule.due(at, 1000) for at in range(10, 100, 10)]
    by_hand = [0.15 * (1 + math.cos(math.pi * at / 100)) for at in range(10, 100, 10)]
    assert ratios == pytest.approx(by_hand)
    assert schedule.due(100, 1000) is None


def test_a_target_that_cannot_be_reached_is_refused():
    with pytest.raises(TypeError, match="target_sparsity"):
        Cubic(0.15, 20)


@pytest.mark.parametrize(
    ("schedule", "settings", "field", "problem"),
    [
        (Cubic, {"target_sparsity": 0.999}, "target_sparsity", "leaves nothing"),
        (Cyclic, {"target_sparsity": 0.9, "initial_sparsity": 0.999}, "initial_sparsity", "leaves"),
        (OneShot, {"target_sparsity": 0.999}, "target_sparsity", "leaves nothing"),
        (OneShot, {"cycles_at_once": 2, "of": "all"}, "of", "must be survivors"),
        (Listed, {"at": [1, 2], "sparsities": [0.5]}, "sparsities", "same length"),
        (Listed, {"at": [2, 1], "sparsities": [0.5, 0.6]}, "at", "must rise"),
        (Listed, {"at": [1], "sparsities": [0.999]}, "sparsities", "leaves nothing"),
        (Periodic, {"of": "all", "interval": 1}, "of", "leave nothing"),
        (Cyclic, {"target_sparsity": 0.9, "period": 4}, "period", "must be from 2 to the 3"),
    ],
)
def test_what_a_schedule_refuses_carries_its_field(schedule, settings, field, problem):
    with pytest.raises(FieldError, match=problem) as refused:
        schedule(0.15, 20, prunable=998, total=1000, **settings)
    assert refused.value.field == field
    assert str(refused.value) == f"{field} {refused.value.problem}"


def test_a_target_is_reached_by_equal_factors():
    schedule = ToTarget(Periodic(0.15, 20, prunable=1000, total=1000), goal=125, length=20)
    surviving, path = 1000, []
    for at in range(21):
        if ratio := schedule.due(at, surviving):
            surviving -= math.floor(ratio * (surviving - 1)) + 1
            path.append(surviving)
    assert path == [500, 250, 125]
    assert (schedule.by, schedule.grows) == ("epoch", False)


def test_each_schedule_has_its_own_few_fields():
    given = {entry.name for entry in fields(Given)}
    own = {
        schedule.__name__: {entry.name for entry in fields(schedule)} - given
        for schedule in (Never, Periodic, OneShot, Geometric, Listed, Cosine)
    }
    spaced = {"by", "start", "stop", "interval"}
    assert own == {
        "Never": set(),
        "Periodic": spaced | {"of"},
        "OneShot": {"by", "start", "stop", "of", "cycles_at_once", "target_sparsity"},
        "Geometric": spaced | {"target_sparsity"},
        "Listed": {"by", "at", "sparsities"},
        "Cosine": spaced,
    }
