"""Networks whose layers change while they are refined, and writes that no optimizer makes."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from refine import Masked, Replay, RuntimeRefinement, Structured
from refine.pruning.granularity import filter as by_filter


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mid, self.fc = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, inputs):
        hidden = self.mid(self.body(inputs).relu()).relu()
        return self.fc(hidden if not hasattr(self, "more") else self.more(hidden).relu())


def batch(classes=3):
    torch.manual_seed(1)
    return torch.randn(16, 8), torch.randint(classes, (16,))


def train(model, optimizer, classes=3):
    inputs, targets = batch(classes)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def refined(pruner=None):
    model = Net()
    refinement = RuntimeRefinement(model, pruner, replay=Replay(steps=0))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    refinement.refinement_cycle([batch()], 0.5)
    return model, refinement, optimizer


def zeros(layer):
    return int((layer.weight == 0).sum())


@pytest.mark.parametrize("kept", [True, False], ids=["old one is kept", "old one is gone"])
def test_a_head_that_is_replaced_lives_whole(kept, caplog):
    model, refinement, optimizer = refined()
    old = model.fc if kept else None
    model.fc = nn.Linear(16, 4)
    train(model, optimizer, 4)  # the old optimizer
    train(model, torch.optim.Adam(model.parameters()), 4)
    assert (zeros(model.body), zeros(model.mid), zeros(model.fc)) == (64, 128, 0)
    total = sum(p.numel() for p in model.parameters())
    assert refinement.total_parameters == total
    assert refinement.active_parameters == total - 64 - 128
    assert "fc.weight (of another size: all of its weights live)" in caplog.text
    report = refinement.refinement_cycle([batch(4)], 0.5)
    assert report["cut"] == {"body.weight": 32, "mid.weight": 64, "fc.weight": 32}
    train(model, torch.optim.Adam(model.parameters()), 4)
    assert zeros(model.fc) == 32
    del old


def test_a_head_that_grows_in_place_and_one_of_the_same_size():
    model, refinement, _ = refined()
    model.fc.weight = nn.Parameter(torch.cat([model.fc.weight, torch.randn(2, 16)]))
    model.fc.bias = nn.Parameter(torch.zeros(5))
    model.mid = nn.Linear(16, 16)
    train(model, torch.optim.Adam(model.parameters()), 5)
    assert (zeros(model.body), zeros(model.mid)) == (64, 0)
    report = refinement.refinement_cycle([batch(5)], 0.5)
    assert report["cut"] == {"body.weight": 32, "mid.weight": 128, "fc.weight": zeros(model.fc)}
    assert refinement.prunable_sparsity == 1 - refinement.masks.surviving / (128 + 256 + 80)


def test_a_layer_that_is_converted_keeps_its_mask(caplog):
    model, refinement, _ = refined()
    twin = nn.Linear(16, 16)
    twin.load_state_dict(model.mid.state_dict())
    model.mid = twin
    train(model, torch.optim.Adam(model.parameters()))
    assert refinement.prunable_sparsity == 0.5
    train(model, torch.optim.Adam(model.parameters()))
    assert zeros(model.mid) == 128
    assert "has changed" not in caplog.text


def test_layers_that_are_added_or_removed():
    model, refinement, _ = refined(Masked(granularity=by_filter))
    model.more = nn.Linear(16, 16)
    report = refinement.refinement_cycle([batch()], 0.5)
    assert report["cut"]["more.weight"] == 128
    again = RuntimeRefinement(model, replay=Replay(steps=0))
    assert again.prunable_sparsity == refinement.prunable_sparsity
    del model.more
    assert "more.weight" not in refinement.refinement_cycle([batch()], 0.1)["cut"]
    train(model, torch.optim.Adam(model.parameters()))


def test_a_head_can_be_replaced_where_channels_are_taken_out():
    model, refinement, _ = refined(Structured())
    width = model.fc.in_features
    assert width < 16
    before = refinement.sparsity
    model.fc = nn.Linear(width, 4)
    assert refinement.total_parameters == 128 + 16 + 256 + 16 + width * 4 + 4
    assert refinement.sparsity > 0.5 * before
    report = refinement.refinement_cycle([batch(4)], 0.5)
    assert report["macs"] < 400
    train(model, torch.optim.Adam(model.parameters()), 4)


def test_a_backbone_that_is_thawed_is_pruned_and_one_that_is_frozen_is_left_alone(caplog):
    caplog.set_level(logging.WARNING)
    model = Net()
    model.body.requires_grad_(False)
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    assert "body.weight" not in refinement.refinement_cycle([batch()], 0.5)["cut"]
    model.body.requires_grad_(True)
    model.mid.requires_grad_(False)
    before = model.mid.weight.clone()
    report = refinement.refinement_cycle([batch()], 0.5)
    assert report["cut"] == {"body.weight": 64, "fc.weight": 12}
    assert model.mid.weight.equal(before)
    assert "body.weight (new, or trains only now: may be cut)" in caplog.text
    assert "left alone: mid.weight (frozen)" in caplog.text


class Lookahead:
    """An optimizer wrapper that writes the weights itself, and is no torch optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.slow = [p.detach().clone() for p in self.parameters]

    def step(self):
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.slow, self.parameters, strict=True):
                slow.lerp_(fast, 0.5)
                fast.copy_(slow)


def test_cut_weights_that_something_else_has_written_are_found_and_said(caplog):
    model = Net()
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), 0.1))
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    refinement.refinement_cycle([batch()], 0.5)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    optimizer.step()
    assert zeros(model.mid) < 128
    refinement.refinement_cycle([batch()], 0.1)
    assert "216 cut weights were not 0" in caplog.text
    assert "zero_cut_" in caplog.text
    assert zeros(model.mid) > 128
    optimizer.step()
    refinement.state_dict()
    assert zeros(model.mid) > 128


def test_a_running_average_is_kept_as_sparse_in_one_line():
    model = Net()
    average = AveragedModel(model)
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    average.update_parameters(model)
    refinement.refinement_cycle([batch()], 0.5)
    average.update_parameters(model)
    assert zeros(average.module.mid) == 0
    refinement.zero_cut_in_(average.module)
    assert zeros(average.module.mid) == 128
    with pytest.raises(ValueError, match=r"no parameter body\.weight"):
        refinement.zero_cut_in_(nn.Linear(2, 2))


def test_zeros_that_nothing_explains_are_said_and_can_be_taken_as_cut(caplog):
    model, _, _ = refined()
    other = Net()
    other.load_state_dict(model.state_dict())
    refinement = RuntimeRefinement(other, replay=Replay(steps=0))
    train(other, torch.optim.Adam(other.parameters()))
    assert "50% of the prunable weights are exactly 0 and not known as cut" in caplog.text
    assert caplog.text.count("exactly 0") == 1
    third = Net()
    third.load_state_dict(model.state_dict())
    refinement = RuntimeRefinement(third, replay=Replay(steps=0))
    refinement.cut_zeros_()
    caplog.clear()
    train(third, torch.optim.Adam(third.parameters()))
    assert refinement.prunable_sparsity == 0.5
    assert zeros(third.mid) == 128
    assert not caplog.text
