"""Losses, batches and outputs as people have them, and cycles that fail."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from refine import Cache, Distillation, Masked, Regrowth, Replay, RuntimeRefinement, Structured
from refine.batches import split
from refine.distillation import Self
from refine.objective import Objective, outputs
from refine.pruning import importance
from refine.replay.storage import highest, reservoir


def network(*sizes):
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))[:-1]


def hard_ones():
    """256 examples, of which the last 56 have a large error."""
    torch.manual_seed(1)
    inputs = torch.randn(256, 4)
    targets = inputs.sum(1, keepdim=True)
    targets[200:] += 50
    return inputs, targets


def kept(refinement):
    return refinement.parts.replay._memory.examples()[1]


@pytest.mark.parametrize("loss", [F.mse_loss, nn.MSELoss(), lambda o, t: ((o - t) ** 2).mean()])
def test_the_memory_ranks_by_the_refinements_loss(loss):
    refinement = RuntimeRefinement(
        network(4, 1), loss=loss, replay=Replay(buffer_size=50, steps=1, batch_size=10)
    )
    refinement.refinement_cycle([hard_ones()], 0.25)
    assert (kept(refinement) > 20).all()


def test_a_replays_own_loss_comes_first():
    replay = Replay(buffer_size=50, steps=1, loss=lambda o, t: -((o - t) ** 2).mean())
    RuntimeRefinement(network(4, 1), loss=F.mse_loss, replay=replay).refinement_cycle(
        [hard_ones()], 0.25
    )
    assert (replay._memory.examples()[1] < 20).all()


def test_several_labels_rank_by_their_own_loss():
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 4), torch.randint(2, (60, 3)).float()
    model = network(4, 3)
    replay = Replay(buffer_size=15, steps=1)
    each = F.binary_cross_entropy_with_logits(model(inputs), targets, reduction="none").mean(1)
    refinement = RuntimeRefinement(
        model, Masked(importance.none), loss=nn.BCEWithLogitsLoss(), replay=replay
    )
    hardest = targets[each.topk(15).indices]
    refinement.refinement_cycle([(inputs, targets)], 0)
    assert sorted(map(tuple, kept(refinement).tolist())) == sorted(map(tuple, hardest.tolist()))


def test_positions_that_are_ignored_do_not_count():
    outputs = torch.randn(3, 5, 2, 2)
    targets = torch.randint(5, (3, 2, 2))
    targets[1, 0] = targets[2] = 255
    for loss in (
        nn.CrossEntropyLoss(ignore_index=255),
        lambda o, t, reduction="mean": F.cross_entropy(o, t, ignore_index=255, reduction=reduction),
    ):
        each = Objective(loss)(outputs, targets, reduction="none")
        assert each.shape == (3,)
        assert each[2] == 0
    one = F.cross_entropy(outputs[1:2], targets[1:2], ignore_index=255)
    assert Objective(nn.CrossEntropyLoss(ignore_index=255))(outputs, targets, reduction="none")[
        1
    ].isclose(one)


def test_segmentation_with_ignored_pixels_is_refined():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    inputs, targets = torch.randn(12, 3, 6, 6), torch.randint(5, (12, 6, 6))
    targets[:, :2] = 255
    report = RuntimeRefinement(
        model,
        Masked(importance.taylor),
        loss=nn.CrossEntropyLoss(ignore_index=255),
        replay=Replay(steps=2, buffer_size=6),
        distillation=Distillation(Self()),
    ).refinement_cycle([(inputs, targets)], 0.3)
    assert report["replay_steps"] == 2


class Named(nn.Module):
    """Takes keywords and returns several tensors, as Hugging Face's networks do."""

    def __init__(self, own_loss=True):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
        self.own_loss = own_loss

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        logits = self.head(hidden.mean(1))
        loss = None
        if labels is not None and self.own_loss:
            loss = F.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return self.left(left) + self.right(right), left


def named(count, length=5):
    torch.manual_seed(count)
    return {
        "input_ids": torch.randint(11, (count, length)),
        "attention_mask": torch.ones(count, length, dtype=torch.int64),
        "labels": torch.randint(3, (count,)),
    }


def pairs(count=12):
    return torch.randn(count, 4), torch.randn(count, 2), torch.randint(3, (count,))


SCORES = (
    importance.magnitude, importance.taylor, importance.fisher, importance.activation,
    importance.movement,
)  # fmt: skip


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
@pytest.mark.parametrize(
    ("make", "batches", "loss"),
    [
        (lambda: Named(), [named(12), named(6)], None),
        (lambda: Named(own_loss=False), [named(12)], nn.CrossEntropyLoss()),
        (lambda: Named(own_loss=False), [(named(12), named(12)["labels"])], F.cross_entropy),
        (lambda: Named(), [named(12)], lambda out, y: F.cross_entropy(out.logits, y)),
        (Two, [pairs()], None),
        (Two, [list(pairs())], nn.CrossEntropyLoss(label_smoothing=0.1)),
        (lambda: network(4, 2, 4), [[torch.randn(12, 4)]], F.mse_loss),
    ],
    ids=["mapping", "module", "dict and labels", "whole output", "triple", "list", "alone"],
)
def test_batches_and_outputs_as_people_have_them(make, batches, loss, score):
    torch.manual_seed(0)
    model = make()
    blind = (
        getattr(loss, "__name__", "") == "<lambda>"
    )  # says nothing of single examples or classes
    storage, teacher = (reservoir, None) if blind else (highest, Self())
    refinement = RuntimeRefinement(
        model,
        Masked(score),
        loss=loss,
        replay=Replay(storage=storage, buffer_size=8, steps=2, batch_size=4),
        distillation=Distillation(teacher),
        regrowth=Regrowth(),
    )
    optimizer = torch.optim.Adam(model.parameters())
    objective = refinement.parts.loss
    for batch in batches:
        inputs, targets = split(batch)
        objective(outputs(model, inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    report = refinement.refinement_cycle(batches, 0.5)
    assert report["replay_steps"] == 2
    assert sum(report["cut"].values()) > 0


def broken_networks():
    targets = torch.randint(3, (8,))
    yield "loss", network(4, 3), (torch.randn(8, 4), targets), lambda o, t: o.relu()
    yield "inputs", network(4, 3), (torch.randn(8, 5), targets), None
    yield "classes", network(4, 3), (torch.randn(8, 4), targets + 3), None
    yield "mapping", Named(), {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}, None
    yield "targets", network(4, 3), (torch.randn(8, 4), [{"boxes": 1}] * 8), None


@pytest.mark.parametrize(
    ("model", "batch", "loss"),
    [case[1:] for case in broken_networks()],
    ids=[case[0] for case in broken_networks()],
)
def test_what_cannot_be_trained_is_said_before_anything_is_cut(model, batch, loss):
    before = copy.deepcopy(model.state_dict())
    refinement = RuntimeRefinement(model, loss=loss)
    for _ in range(2):
        with pytest.raises(ValueError, match="batch"):
            refinement.refinement_cycle([batch], 0.5)
    assert refinement.cycles == 0
    assert refinement.sparsity == 0
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


def everything(model, refinement, optimizer):
    """All that a failed cycle could have changed."""
    return copy.deepcopy(
        (
            model.state_dict(),
            dict(refinement.masks),
            optimizer.state_dict(),
            refinement.state_dict(),
            (refinement.cycles, refinement.sparsity, refinement.active_parameters),
        )
    )


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and bool(one.equal(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def masked(model):
    return RuntimeRefinement(
        model,
        Masked(importance.movement),
        replay=Replay(storage=reservoir, buffer_size=8, steps=2),
        regrowth=Regrowth(budget=0.5),
        distillation=Distillation(Self(), during="cycle"),
        cache=Cache(),
    )


def structured(model):
    return RuntimeRefinement(model, Structured(), replay=Replay(buffer_size=8, steps=2))


@pytest.mark.parametrize("make", [masked, structured])
@pytest.mark.parametrize("failure", ["evaluate", "replay", "Ctrl-C"])
def test_a_cycle_that_fails_leaves_all_as_it_was(make, failure):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    refinement, optimizer = make(model), torch.optim.Adam(model.parameters())
    batches = [(torch.randn(8, 1, 6, 6), torch.randint(3, (8,))) for _ in range(2)]

    def train():
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    refinement.begin_epoch()
    train()
    refinement.refinement_cycle(batches, 0.25)
    train()
    before = everything(model, refinement, optimizer)
    twin = copy.deepcopy(before)

    def stops(given):
        raise KeyboardInterrupt("stop") if failure == "Ctrl-C" else RuntimeError("stop")

    steps, evaluate = refinement.steps, stops
    if failure == "replay":
        refinement.steps, evaluate = (*steps, stops), None
    with pytest.raises((RuntimeError, KeyboardInterrupt), match="stop"):
        refinement.refinement_cycle(batches, 0.25, evaluate=evaluate)
    assert equal(everything(model, refinement, optimizer), before)
    assert equal(before, twin)
    refinement.steps = steps
    report = refinement.refinement_cycle(batches, 0.25)
    assert report["cycle"] == 2
    train()
    assert sum(report["cut"].values()) > 0


def test_an_iterator_gives_its_scoring_batches_to_the_memory_too():
    data = TensorDataset(torch.randn(64, 4), torch.randint(3, (64,)))
    for score in (importance.taylor, importance.magnitude):
        refinement = RuntimeRefinement(
            network(4, 3), Masked(score, scoring_batches=4), replay=Replay(steps=1)
        )
        report = refinement.refinement_cycle(iter(DataLoader(data, batch_size=8)), 0.25)
        assert report["memory_examples"] == 64


def test_gradients_that_are_being_accumulated_stay():
    model, other = network(4, 3), nn.Linear(2, 2)
    inputs, targets = torch.randn(16, 4), torch.randint(3, (16,))
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], 0.1)
    refinement = RuntimeRefinement(model, replay=Replay(steps=3), optimizer=optimizer)
    other(torch.randn(3, 2)).sum().backward()
    F.cross_entropy(model(inputs), targets).backward()
    parameters = [*model.parameters(), *other.parameters()]
    before = [parameter.grad.clone() for parameter in parameters]
    weight = other.weight.clone()
    refinement.refinement_cycle([(inputs, targets)], 0.25)
    assert all(map(torch.equal, before, [parameter.grad for parameter in parameters]))
    assert other.weight.equal(weight)  # the replay's steps are not theirs


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_movement_sees_the_gradients_of_a_closure(kind):
    model, inputs, targets = network(4, 3), torch.randn(16, 4), torch.randint(3, (16,))
    refinement = RuntimeRefinement(model, Masked(importance.movement), replay=Replay(steps=0))
    optimizer = kind(model.parameters(), lr=0.1)
    expected = torch.zeros(3, 4)
    refinement.begin_epoch()
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        closure()
        expected -= model[0].weight.detach() * model[0].weight.grad
        optimizer.step(closure)
    sums = refinement.importance(model, ())
    torch.testing.assert_close(sums["0.weight"], expected)
    refinement.refinement_cycle([(inputs, targets)], 0.5)


def test_sizes_that_differ_between_batches_are_refused_and_nothing_is_cut():
    torch.manual_seed(0)
    model = Named()
    refinement = RuntimeRefinement(model, replay=Replay(steps=1, buffer_size=8))
    with pytest.raises(ValueError, match="differ from batch to batch"):
        refinement.refinement_cycle([named(4, 5), named(4, 7)], 0.5)
    assert refinement.sparsity == 0
    without = RuntimeRefinement(model, Masked(importance.taylor), replay=Replay(steps=0))
    without.refinement_cycle([named(4, 5), named(4, 7)], 0.5)
    assert without.prunable_sparsity == 0.5


def test_a_cycle_within_no_grad_trains_and_within_inference_mode_is_refused():
    batches = [(torch.randn(16, 4), torch.randint(3, (16,)))]
    refinement = RuntimeRefinement(network(4, 3), Masked(importance.taylor))
    with torch.no_grad():
        assert refinement.refinement_cycle(batches, 0.25)["replay_steps"] == 30
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside torch\.inference_mode"):
        refinement.refinement_cycle(batches, 0.25)
    assert refinement.cycles == 1


def test_a_ratio_is_any_number():
    refinement = RuntimeRefinement(network(4, 3), replay=Replay(steps=0))
    assert refinement.refinement_cycle(None, torch.tensor(0.5))["ratio"] == 0.5
    for wrong in (None, "half", [0.5]):
        with pytest.raises(ValueError, match="prune_ratio must be a number"):
            refinement.refinement_cycle(None, wrong)


def test_inputs_that_no_memory_can_keep_are_said():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)

        def forward(self, packed):
            return self.head(self.layer(packed)[1][0][-1])

    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 4), torch.randn(3, 4)])
    batches = [(packed, torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="cannot keep a PackedSequence"):
        RuntimeRefinement(Recurrent()).refinement_cycle(batches, 0.25)
    pruner = Masked(importance.taylor)
    refinement = RuntimeRefinement(Recurrent(), pruner, replay=Replay(steps=0))
    assert sum(refinement.refinement_cycle(batches, 0.25)["cut"].values()) > 0


def test_a_part_of_a_network_that_is_pruned_already_is_said(caplog):
    model = network(4, 8, 3)
    RuntimeRefinement(model, replay=Replay(steps=0)).refinement_cycle(None, 0.5)
    RuntimeRefinement(model[0], replay=Replay(steps=0)).refinement_cycle(None, 0.5)
    assert "50% of the prunable weights are exactly 0 and not known as cut" in caplog.text
