"""A refinement that is saved, loaded, copied and let go."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import refine
from refine import Distillation, Masked, Regrowth, Replay, RuntimeRefinement, Structured
from refine.distillation import Self
from refine.pruning import importance
from refine.replay.storage import reservoir


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def convolutional(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )


def data(shape=(8,)):
    torch.manual_seed(1)
    return [(torch.randn(16, *shape), torch.randint(3, (16,))) for _ in range(2)]


def train(model, optimizer, batches, steps=2):
    for _ in range(steps):
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


def cut_share(model):
    weights = [p for p in model.parameters() if p.dim() > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def masked(model):
    return RuntimeRefinement(
        model, Masked(importance.movement), replay=Replay(storage=reservoir, steps=2, buffer_size=9)
    )


@pytest.mark.parametrize(
    "order",
    ["refinement model optimizer", "optimizer model refinement", "model refinement optimizer"],
)
def test_a_run_goes_on_at_its_sparsity_whatever_is_loaded_first(order):
    batches = data()
    model = network()
    refinement, optimizer = masked(model), torch.optim.Adam(model.parameters(), lr=0.01)
    refinement.begin_epoch()
    train(model, optimizer, batches)
    refinement.refinement_cycle(batches, 0.5)
    train(model, optimizer, batches)
    file = io.BytesIO()
    things = {"model": model, "refinement": refinement, "optimizer": optimizer}
    torch.save({name: thing.state_dict() for name, thing in things.items()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = network(5)
    again, its = masked(other), torch.optim.Adam(other.parameters(), lr=0.01)
    new = {"model": other, "refinement": again, "optimizer": its}
    for name in order.split():
        new[name].load_state_dict(state[name])
    assert again.prunable_sparsity == refinement.prunable_sparsity == 0.5
    for both in (model, optimizer, refinement), (other, its, again):
        torch.manual_seed(3)
        both[2].begin_epoch()
        train(both[0], both[1], batches)
        assert cut_share(both[0]) == 0.5
        report = both[2].refinement_cycle(batches, 0.5)
        train(both[0], both[1], batches)
        assert (report["cycle"], report["prunable_sparsity"]) == (2, 0.75)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert one.equal(same)


@pytest.mark.parametrize("pruner", [Masked(), Structured()], ids=["masked", "structured"])
def test_one_file_holds_all_three(tmp_path, pruner):
    batches, model = data((1, 6, 6)), convolutional()
    refinement = RuntimeRefinement(model, pruner, replay=Replay(steps=0))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, batches)
    refinement.refinement_cycle(batches, 0.5)
    train(model, optimizer, batches)
    refine.save(tmp_path / "all.pt", model, refinement, optimizer)
    other = convolutional(3)
    again, its = RuntimeRefinement(other, pruner), torch.optim.Adam(other.parameters())
    refine.load(tmp_path / "all.pt", other, again, its)
    assert again.sparsity == refinement.sparsity > 0.2
    for both in (model, optimizer), (other, its):
        train(*both, batches)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert one.equal(same)
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"not written by refine\.save"):
        refine.load(tmp_path / "other.pt", other, again)


def test_the_state_of_another_network_is_refused_before_anything_changes():
    model = network()
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    refinement.refinement_cycle(data(), 0.5)
    wide = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    for other, says in (
        (wide, "0.weight has the shape"),
        (convolutional(), "2.weight is prunable"),
    ):
        there = RuntimeRefinement(other)
        with pytest.raises(ValueError, match=says):
            there.load_state_dict(refinement.state_dict())
        assert there.cycles == there.sparsity == 0
    without = refinement.state_dict()
    for name in ("masks", "shapes", "first"):
        del without[name]
    RuntimeRefinement(network()).load_state_dict(without)  # as it was before masks were in it


def test_weights_that_are_loaded_leave_cut_ones_at_zero():
    model = network()
    dense = copy.deepcopy(model.state_dict())
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    refinement.refinement_cycle(data(), 0.5)
    nn.ModuleDict({"part": model}).load_state_dict({f"part.{n}": v for n, v in dense.items()})
    assert cut_share(model) == refinement.prunable_sparsity == 0.5


def test_a_freeze_holds_what_is_loaded_after_it():
    batches, model = data(), network()
    grown = Regrowth(budget=0.5, only_epochs=2)
    refinement = RuntimeRefinement(model, regrowth=grown, replay=Replay(steps=0))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refinement.refinement_cycle(batches, 0.5)
    other = network(4)
    again = RuntimeRefinement(other, regrowth=Regrowth(budget=0.5), replay=Replay(steps=0))
    again.load_state_dict(refinement.state_dict())
    other.load_state_dict(model.state_dict())
    for both in (model, optimizer), (other, torch.optim.SGD(other.parameters(), 0.1)):
        train(*both, batches)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert one.equal(same)


class Holder(nn.Module):
    """Keeps its refinement in an attribute."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 3)
        self.refinement = RuntimeRefinement(
            self,
            regrowth=Regrowth(budget=0),
            replay=Replay(steps=2, buffer_size=8),
            distillation=Distillation(Self()),
        )

    def forward(self, inputs):
        return self.head(self.body(inputs).relu())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_module_cuts_itself(copied):
    batches, model = data(), Holder()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, batches)
    model.refinement.refinement_cycle(batches, 0.5)
    model.refinement.mine = 5
    other = copied(model)
    assert other.refinement.mine == 5
    assert other.refinement.model is other
    assert other.refinement.prunable_sparsity == 0.5
    before = copy.deepcopy(model.state_dict())
    its = torch.optim.Adam(other.parameters())
    train(other, its, batches)
    assert cut_share(other) == 0.5
    other.refinement.refinement_cycle(batches, 0.5)
    assert cut_share(other) == 0.75
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert model.refinement.prunable_sparsity == 0.5
    teacher = model.refinement.parts.distillation.teacher.network
    assert teacher.refinement is None


def test_a_model_that_is_let_go_of_is_free():
    batches, model = data(), network()
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    refinement.refinement_cycle(batches, 0.5)
    refinement.detach()
    assert cut_share(model) == 0.5
    train(model, torch.optim.Adam(model.parameters()), batches)
    assert cut_share(model) < 0.1  # behind dead units
    with pytest.raises(ValueError, match="detached"):
        refinement.refinement_cycle(batches, 0.5)
    again = RuntimeRefinement(model, Masked(prunable=["0.weight"]), replay=Replay(steps=0))
    assert again.sparsity == 0
