"""The calls that the paper's own repository prints, with smaller data."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import refine
from refine import Masked
from refine.pruning.allocation import global_
from runtime_refinement import PrioritizedReplayBuffer, RuntimeRefinement, SimpleCNN


@pytest.fixture(scope="module")
def loader():
    torch.manual_seed(0)
    return [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(3)]


def train_one_epoch(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_the_training_loop(loader):
    model = SimpleCNN()
    refiner = RuntimeRefinement(model, device="cpu")
    for epoch in range(2):
        train_one_epoch(model, loader)
        if epoch % 2 == 1:
            metrics = refiner.refinement_cycle(loader, prune_ratio=0.15)
            assert f"{metrics['sparsity']:.1%}" == "15.0%"
    assert "sparsity" in metrics
    assert metrics.get("nothing", 5) == 5
    assert dict(metrics) == dict(**metrics)
    assert len(metrics) == len(list(metrics))
    with pytest.raises(KeyError):
        metrics["nothing"]


def test_another_network():
    model = resnet18(num_classes=10)
    assert RuntimeRefinement(model, device="cpu").total_parameters > 11_000_000


def test_a_device_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda': there is no GPU"):
        RuntimeRefinement(SimpleCNN(), device="cuda")


def test_the_model_goes_where_the_device_is():
    class Moves(nn.Linear):
        moved = None

        def to(self, device):
            self.moved = device
            return self

    model = Moves(4, 2)
    RuntimeRefinement(model, device="cpu")
    assert model.moved == torch.device("cpu")


class Gradients(RuntimeRefinement):
    def estimate_importance(self):
        importance = {}
        for name, param in self.model.named_parameters():
            importance[name] = param.grad.abs().mean() if param.grad is not None else 0
        return importance


def test_an_importance_of_a_subclass_is_used(loader):
    model = SimpleCNN()
    train_one_epoch(model, loader)
    model.fc1.weight.grad.zero_()  # matters least
    refiner = Gradients(model, Masked(allocation=global_), replay=refine.Replay(steps=0))
    cut = refiner.refinement_cycle(loader, prune_ratio=0.15)["cut"]
    assert {name for name, count in cut.items() if count} == {"fc1.weight"}
    weights = model.fc1.weight.detach().flatten()
    assert weights[weights != 0].abs().min() > 0
    assert sorted(cut.values())[-1] == int((weights == 0).sum())


class OneFilter(RuntimeRefinement):
    def prune_structured(self, prune_ratio=0.2):
        self.model.conv1.weight[: int(32 * prune_ratio)] = 0


def test_a_cut_of_a_subclass_is_made_and_held(loader):
    model = SimpleCNN()
    refiner = OneFilter(model)
    report = refiner.refinement_cycle(loader, prune_ratio=0.25)
    assert report["cut"]["conv1.weight"] == 8 * 27
    assert sum(report["cut"].values()) == 8 * 27
    train_one_epoch(model, loader)
    assert not model.conv1.weight[:8].any()
    assert model.conv1.weight[8:].all()


def test_filters_are_cut_by_the_call_itself(loader):
    model = SimpleCNN()
    refiner = RuntimeRefinement(model)
    cut = refiner.prune_structured(prune_ratio=0.25)
    assert cut["conv1.weight"] == 8 * 27
    train_one_epoch(model, loader)
    assert int((model.conv1.weight == 0).flatten(1).all(1).sum()) == 8


def test_a_buffer_that_one_fills_oneself(loader):
    buffer = PrioritizedReplayBuffer(capacity=10)
    images, labels = loader[0]
    buffer.add((images, labels), priorities=torch.arange(8.0))
    buffer.add(list(zip(*loader[1], strict=True)), priorities=[100.0] * 8)
    assert len(buffer) == 10
    assert sorted(buffer._memory.current["draws"].tolist()) == [6.0, 7.0] + [100.0] * 8
    report = RuntimeRefinement(SimpleCNN(), replay=buffer).refinement_cycle(loader, 0.1)
    assert (report["replay_steps"], report["memory_examples"]) == (30, 10)
    again = PrioritizedReplayBuffer(capacity=10)
    again.load_state_dict(buffer.state_dict())
    assert len(again) == 10
    with pytest.raises(ValueError, match="finite priority"):
        buffer.add((images, labels), priorities=torch.full((8,), float("nan")))
    empty = PrioritizedReplayBuffer(capacity=10)
    with pytest.raises(ValueError, match="buffer is empty"):
        RuntimeRefinement(SimpleCNN(), replay=empty).refinement_cycle(loader, 0.1)
