"""Outputs of every task are compared as what they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine.distillation.matching import logits
from refine.distillation.task import at_each_position, comparison, values, yes_or_no
from refine.objective import Objective


def test_a_distance_does_not_grow_with_the_positions():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5, 1, 1), torch.randn(4, 5, 1, 1)
    one = logits(student, teacher, 2.0)
    many = logits(student.expand(4, 5, 64, 64), teacher.expand(4, 5, 64, 64), 2.0)
    torch.testing.assert_close(one, many)
    torch.testing.assert_close(one, logits(student.flatten(1), teacher.flatten(1), 2.0))


def test_equal_token_probabilities_are_no_distance():
    torch.manual_seed(0)
    teacher = torch.randn(2, 7, 11)
    student = teacher + torch.randn(2, 7, 1)  # the same probabilities at each position
    assert at_each_position(student, teacher, 2.0).abs() < 1e-5
    assert yes_or_no(teacher, teacher, 2.0).abs() < 1e-6
    assert yes_or_no(-teacher, teacher, 2.0) > 0.1  # opposite answers
    assert values(teacher + 1, teacher, 2.0) == 1


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "expected"),
    [
        (None, (4, 5), torch.zeros(4, dtype=torch.int64), logits),
        (F.cross_entropy, (4, 5, 8, 8), torch.zeros(4, 8, 8, dtype=torch.int64), logits),
        (nn.CrossEntropyLoss(), (4, 5), torch.zeros(4, 5), logits),
        (lambda o, t: o.sum(), (4, 7, 9), torch.zeros(4, 7, dtype=torch.int64), at_each_position),
        (lambda o, t: o.sum(), (4, 5), torch.zeros(4, dtype=torch.int64), logits),
        (nn.BCEWithLogitsLoss(), (4, 5), torch.zeros(4, 5), yes_or_no),
        (F.mse_loss, (8, 1), torch.zeros(8, 1), values),
        (nn.L1Loss(), (8,), torch.zeros(8), values),
        (lambda o, t: o.sum(), (8, 3), torch.zeros(8, 3), None),
        (None, (8,), torch.zeros(8, dtype=torch.int64), None),
    ],
)
def test_loss_and_targets_tell_what_outputs_are(loss, outputs, targets, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"match=\.\.\."):
            comparison(Objective(loss), torch.randn(outputs), targets)
    else:
        assert comparison(Objective(loss), torch.randn(outputs), targets) is expected
