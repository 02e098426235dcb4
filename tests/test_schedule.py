import pytest

from refine.schedule import Cubic, Never, OneShot, Periodic


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        (Periodic(0.15, 20), [5, 10, 15]),  # the paper: not after 20
        (Periodic(0.15, 20, stop=20), [5, 10, 15, 20]),
        (Periodic(0.15, 20, interval=3, start=1, stop=9), [1, 4, 7]),
        (Periodic(0.15, 5), []),
        (OneShot(0.15, 20), [10]),
        (OneShot(0.15, 20, start=4), [4]),
        (OneShot(0.15, 20, start=20), []),
        (OneShot(0.15, 20, start=20, stop=20), [20]),
        (Never(0.15, 20), []),
    ],
)
def test_when_cycles_are_due(schedule, epochs):
    due = {epoch: schedule.due(epoch) for epoch in range(1, 21)}
    assert [epoch for epoch, ratio in due.items() if ratio is not None] == epochs
    assert set(due.values()) <= {0.15, None}


def test_one_shot_cuts_as_much_as_its_cycles_would():
    assert OneShot(0.15, 20, cycles_at_once=3).due(10) == pytest.approx(1 - 0.85**3)


def test_cubic_reaches_its_target_with_the_published_curve():
    share = 581_728 / 582_346
    schedule = Cubic(
        0.15, 20, interval=2, start=2, stop=11, target_sparsity=0.9, prunable_share=share
    )
    due = {epoch: schedule.due(epoch) for epoch in range(1, 21)}
    assert [epoch for epoch, ratio in due.items() if ratio] == [2, 4, 6, 8, 10]
    alive, curve = 1.0, []
    for ratio in filter(None, due.values()):
        alive *= 1 - ratio
        curve.append((1 - alive) * share)
    assert curve == pytest.approx([0.9 * (1 - (1 - k / 5) ** 3) for k in range(1, 6)])


def test_cubic_needs_a_target_that_can_be_reached():
    with pytest.raises(ValueError, match="target_sparsity is not set"):
        Cubic(0.15, 20)
    with pytest.raises(ValueError, match="leaves nothing"):
        Cubic(0.15, 20, target_sparsity=0.999, prunable_share=0.998)
