import pytest

from refine.evaluation.forgetting import average_accuracy, forgetting


def test_every_task_counts_the_same():
    assert average_accuracy([0.9]) == 0.9
    assert average_accuracy([1.0, 0.5, 0.0]) == 0.5


@pytest.mark.parametrize(
    ("now", "at_ends", "expected"),
    [
        ([0.9], [], 0.0),
        ([0.9], [[0.9]], 0.0),
        ([0.7, 0.8], [[0.9]], 0.2),  # in the second task's first epochs
        ([0.7, 0.8], [[0.9], [0.7, 0.8]], 0.2),  # at its end
        ([0.95, 0.8], [[0.9], [0.95, 0.8]], -0.05),  # better at its end than at the first's
        # The first was best after the second, 0.95 - 0.5; the second at its own end, 0.8 - 0.6.
        ([0.5, 0.6, 0.9], [[0.9], [0.95, 0.8]], (0.45 + 0.2) / 2),
        ([0.5, 0.6, 0.9], [[0.9], [0.95, 0.8], [0.5, 0.6, 0.9]], (0.45 + 0.2) / 2),
        ([0.95, 0.9, 0.1], [[0.9], [0.8, 0.7]], (-0.05 - 0.2) / 2),  # better than ever
        ([0.0, 0.0, 0.0, 1.0], [[1.0], [0.5, 0.8], [0.2, 0.3, 0.6]], (1.0 + 0.8 + 0.6) / 3),
    ],
)
def test_forgetting_is_what_the_best_end_of_a_task_is_above_now(now, at_ends, expected):
    assert forgetting(now, at_ends) == pytest.approx(expected)


def test_a_task_that_has_not_ended_cannot_be_forgotten():
    with pytest.raises(ValueError, match="empty"):
        forgetting([0.5, 0.6, 0.9], [[0.9]])
