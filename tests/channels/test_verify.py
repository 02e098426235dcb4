"""The check that a group of channels really goes together sees what it has to see."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine import RuntimeRefinement
from refine.channels.plan import Structured
from refine.channels.verify import usable_groups
from refine.replay import Replay

pytest.importorskip("torch_pruning")


class Gate(nn.Module):
    """A squeeze-and-excite block, which makes its inputs a little smaller."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x):
        x = F.silu(self.norm(self.conv(x)))
        return x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class Gated(nn.Module):
    """``b`` reads the channels of ``a`` in reverse, behind which there are blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)
        self.t = nn.Sequential(*[Gate(16) for _ in range(blocks)])
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.t(F.relu(self.b(F.relu(self.a(x)).flip(1)))).mean((2, 3)))


@pytest.mark.parametrize("blocks", [1, 12])
def test_wrong_columns_are_seen_at_any_depth(blocks):
    torch.manual_seed(0)
    model, x = Gated(blocks), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="cannot be followed"):
        RuntimeRefinement(
            model, Structured(protected=("b", "t*"), example=x), replay=Replay(steps=0)
        )


class Unseen(nn.Module):
    """Multiplies its features by nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(0.0 * F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


def test_what_has_no_effect_that_can_be_measured_is_refused_by_name():
    groups, left = usable_groups(Unseen(), torch.randn(2, 3, 8, 8))
    assert not groups
    assert left["b"] == "its effect on head is too small to be checked"
    assert left["a"] == "its effect on the network's outputs is too small to be checked"


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(1)


@pytest.mark.long
def test_wrong_columns_are_seen_in_efficientnet():
    from torchvision.models import efficientnet_b0

    torch.manual_seed(0)
    model, stem = efficientnet_b0(), "features.0.0"
    groups, _ = usable_groups(model, torch.randn(2, 3, 32, 32))
    wrong = next(group.root for group in groups if stem in group.producers)
    model.features[0].add_module("flip", Flip())
    others, left = usable_groups(model, torch.randn(2, 3, 32, 32))
    assert {group.root for group in others} == {group.root for group in groups} - {wrong}
    assert "cannot be followed" in left[wrong]
