import pytest

from refine.schedule import Never, OneShot, Periodic


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
