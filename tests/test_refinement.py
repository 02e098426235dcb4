import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine import Masked, Replay, RuntimeRefinement
from refine.models import simple_cnn
from refine.pruning.importance import magnitude
from refine.sparsity.watching import _watches
from refine.training.optim import Muon

NO_REPLAY = Replay(steps=0).batches


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def loader(batches=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batches, 8, 1, 4, 4, generator=generator)
    labels = torch.randint(3, (batches, 8), generator=generator)
    return list(zip(images, labels, strict=True))


def train(model, optimizer, steps=5):
    for images, labels in (loader() * steps)[:steps]:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adam_fused": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, fused=True),
    "muon": lambda p: Muon(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cut_weights_stay_zero_under_an_optimizer_never_shown(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    train(model, optimizer)  # moments of all weights, also of those that will go
    refinement.refinement_cycle(loader(), prune_ratio=0.5)
    weights = refinement.masks.weights()
    for key, mask in refinement.masks.items():
        for moment in optimizer.state[weights[key]].values():
            if torch.is_tensor(moment) and moment.shape == mask.shape:
                assert (moment[~mask] == 0).all()
                assert (moment[mask] != 0).any()
    for _ in range(5):
        before = {key: weight.clone() for key, weight in weights.items()}
        train(model, optimizer, steps=1)
        for key, mask in refinement.masks.items():
            assert (weights[key][~mask] == 0.0).all()
            assert not weights[key][~mask].signbit().any()
            assert (weights[key][mask] != before[key][mask]).float().mean() > 0.9
            for moment in optimizer.state[weights[key]].values():
                if torch.is_tensor(moment) and moment.shape == mask.shape:
                    assert (moment[~mask] == 0).all()


def test_an_optimizer_from_before_the_refinement_loses_its_moments_when_first_seen():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer)
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    refinement.refinement_cycle(prune_ratio=0.5)
    train(model, optimizer, steps=1)
    for key, weight in refinement.masks.weights().items():
        mask = refinement.masks[key]
        assert (weight[~mask] == 0).all()
        assert (optimizer.state[weight]["momentum_buffer"][~mask] == 0).all()


def test_the_cycle_and_its_report():
    model = simple_cnn()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    report = refinement.refinement_cycle(prune_ratio=0.15)
    assert report["sparsity"] == report.sparsity == pytest.approx(87_261 / 582_346)
    assert report.prunable_sparsity == pytest.approx(87_261 / 581_728)
    assert (report.active_parameters, report.total_parameters) == (495_085, 582_346)
    assert report.cut == {
        "conv1.weight": 130, "conv2.weight": 2765, "conv3.weight": 5530,
        "fc1.weight": 78_644, "fc2.weight": 192,
    }  # fmt: skip
    with pytest.raises(KeyError):
        report["sparsty"]
    for name, weight in model.named_parameters():
        if name in refinement.masks:  # scaled down, then cut; nothing else has moved
            expected = before[name] * 0.98 * refinement.masks[name]
        else:
            expected = before[name]
        assert weight.equal(expected)


def test_ratio_zero_cuts_nothing_and_ratios_out_of_range_are_refused():
    refinement = RuntimeRefinement(network(), replay=NO_REPLAY)
    assert refinement.refinement_cycle(prune_ratio=0).sparsity == 0
    for ratio in (-0.1, 1.0, 15):
        with pytest.raises(ValueError, match="prune_ratio"):
            refinement.refinement_cycle(prune_ratio=ratio)
    assert refinement.cycles == 1


def test_importance_allocation_and_replay_are_plain_callables():
    seen = {}

    def importance(model, batches):
        seen["batches"] = len(list(batches))
        return {name: -weight.detach().abs() for name, weight in model.named_parameters()}

    def allocation(scores, masks, ratio):
        seen["ratio"] = ratio
        return {"4.weight": 7}

    def replay(model, batches):
        yield next(iter(batches))

    model = network()
    largest = model[4].weight.detach().abs().flatten().topk(7).indices
    refinement = RuntimeRefinement(
        model,
        Masked(importance=importance, allocation=allocation, downscale_factor=1),
        replay=replay,
    )
    report = refinement.refinement_cycle(loader(), prune_ratio=0.3)
    assert seen == {"batches": 4, "ratio": 0.3}
    assert report.cut == {"4.weight": 7}
    assert report.replay_steps == 1
    assert not refinement.masks["4.weight"].flatten()[largest].any()


def test_replay_uses_the_optimizer_that_trains_and_not_its_schedule():
    model = network()
    first = torch.optim.SGD(model.parameters(), 0.5)
    refinement = RuntimeRefinement(model, replay=Replay(steps=3, batch_size=8).batches)
    train(model, first)
    second = torch.optim.Adam(model.parameters(), 0.01)  # succeeds the first on the same weights
    train(model, second)
    scheduler = torch.optim.lr_scheduler.StepLR(second, 1)
    steps = {first: 0, second: 0}
    for optimizer in steps:
        optimizer.register_step_post_hook(
            lambda own, args, kwargs: steps.__setitem__(own, steps[own] + 1)
        )
    report = refinement.refinement_cycle(loader(), prune_ratio=0.2)
    assert report.replay_steps == 3
    assert steps == {first: 0, second: 3}
    assert second.param_groups[0]["lr"] == 0.01
    assert scheduler.last_epoch == 0


def test_two_optimizers_of_two_parts_both_replay():
    model = network()
    parts = [
        torch.optim.SGD(model[:2].parameters(), 0.1),
        torch.optim.SGD(model[4].parameters(), 0.1),
    ]
    refinement = RuntimeRefinement(model, replay=Replay(steps=1, batch_size=8).batches)
    for optimizer in parts:
        train(model, optimizer, steps=1)
    before = copy.deepcopy(model.state_dict())
    refinement.downscale_factor = 1
    refinement.refinement_cycle(loader(), prune_ratio=0)
    moved = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert {"0.weight", "4.weight"} <= moved


def test_a_network_that_nobody_trained_is_replayed_too():
    model = network()
    refinement = RuntimeRefinement(model, replay=Replay(steps=40, batch_size=32).batches)
    before = F.cross_entropy(model(loader()[0][0]), loader()[0][1])
    report = refinement.refinement_cycle(loader(), prune_ratio=0.2)
    assert report.replay_loss < before
    for key, weight in refinement.masks.weights().items():
        assert (weight[~refinement.masks[key]] == 0).all()


def test_scoring_leaves_batch_norm_alone_and_modes_come_back():
    model = network()
    model.eval()
    statistics = model[1].running_mean.clone()
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    refinement.refinement_cycle(loader(), prune_ratio=0.2, evaluate=lambda model: 0.5)
    assert model[1].running_mean.equal(statistics)
    RuntimeRefinement(model, replay=Replay(steps=2).batches).refinement_cycle(loader())
    assert not model[1].running_mean.equal(statistics)  # replay trains
    assert not any(module.training for module in model.modules())


def test_evaluate_measures_after_the_cut_and_after_the_replay():
    model = network()
    refinement = RuntimeRefinement(model, replay=Replay(steps=2, batch_size=4).batches)
    seen = []
    report = refinement.refinement_cycle(
        loader(), 0.3, lambda model: seen.append(model[4].weight.clone()) or float(len(seen))
    )
    assert (report.accuracy_after_cut, report.accuracy_after_replay) == (1.0, 2.0)
    assert not seen[0].equal(seen[1])
    assert set(report.seconds) >= {"score", "downscale", "cut", "replay"}


def test_a_diverged_network_is_not_cut():
    model = network()
    model[4].weight.data[0, 0] = float("nan")
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match="NaN"):
        refinement.refinement_cycle(loader())
    assert refinement.sparsity == 0
    assert model[0].weight.equal(before)


def test_other_networks_optimizers_are_left_alone_and_watching_ends_with_the_network():
    gc.collect()
    watches = len(_watches)
    model, other = network(), network()
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    train(other, optimizer)
    assert refinement._watch.alive() == []
    assert len(_watches) == watches + 1
    del refinement, model
    gc.collect()
    assert len(_watches) == watches


def zeros(model):
    return sum(int((weight == 0).sum()) for weight in model.parameters() if weight.dim() > 1)


def test_a_refinement_need_not_be_kept_and_a_second_one_continues():
    model = network()
    RuntimeRefinement(model, replay=NO_REPLAY).refinement_cycle(loader(), prune_ratio=0.5)
    gc.collect()
    cut = zeros(model)
    assert cut > 100
    train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    assert zeros(model) == cut
    again = RuntimeRefinement(model, replay=NO_REPLAY)
    assert again.active_parameters == again.total_parameters - cut
    with pytest.raises(ValueError, match="other prunable tensors"):
        RuntimeRefinement(model, Masked(prunable=["0.weight"]))


class Wrapping(torch.optim.Optimizer):
    """As Lookahead does: steps another optimizer, then changes the weights itself."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        self.inner.step()
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.add_(0.1)


def test_an_optimizer_that_steps_another_leaves_zeros_too():
    model = network()
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    optimizer = Wrapping(torch.optim.SGD(model.parameters(), 0.1))
    for _ in range(3):
        cut = refinement.refinement_cycle(prune_ratio=0.2).total_parameters
        cut -= refinement.active_parameters
        train(model, optimizer, steps=2)
        assert zeros(model) == cut


def test_a_step_touches_only_the_weights_of_its_optimizer():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    optimizers = {name: torch.optim.SGD(model[name].parameters(), 0.1) for name in "ab"}
    refinement.refinement_cycle(prune_ratio=0.5)
    x = torch.randn(3, 4)
    losses = {name: model[name](x * 2).square().sum() for name in "ab"}
    losses["a"].backward()
    optimizers["a"].step()
    y = model["b"](x.requires_grad_()).square().sum()
    losses["b"].backward()  # would fail if b's weights had been written to since its forward pass
    optimizers["a"].step()
    y.backward()
    optimizers["b"].step()
    assert zeros(model) == refinement.total_parameters - refinement.active_parameters


def test_an_optimizer_of_biases_alone_replays_too_and_no_gradient_is_left():
    model = network()
    kinds = [[p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)]
    optimizers = [torch.optim.SGD(parameters, 0.1) for parameters in kinds]
    refinement = RuntimeRefinement(model, replay=Replay(steps=2, batch_size=8).batches)
    for images, labels in loader():
        F.cross_entropy(model(images), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    before = model[4].bias.clone()
    refinement.refinement_cycle(loader(), prune_ratio=0)
    assert not model[4].bias.equal(before)
    assert all(weight.grad is None for weight in model.parameters())


def test_the_loss_ranks_the_replay():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    inputs = torch.randn(40, 2)
    with torch.no_grad():
        targets = model(inputs) + torch.arange(40.0)[:, None]
    seen = []

    def step(batch):
        seen.append(batch.inputs)
        return F.mse_loss(model(batch.inputs), batch.targets)

    refinement = RuntimeRefinement(model, loss=F.mse_loss, optimizer=step)
    refinement.parts.replay.buffer_size, refinement.parts.replay.steps = 5, 1
    refinement.downscale_factor = 1
    refinement.refinement_cycle([(inputs, targets)], prune_ratio=0)
    assert sorted(map(tuple, seen[0].tolist())) == sorted(map(tuple, inputs[-5:].tolist()))


def test_an_importance_that_runs_the_model_changes_no_statistics():
    def importance(model, batches):
        for images, _ in batches:
            model(images)
        return magnitude(model, batches)

    model = network()
    before = {name: value.clone() for name, value in model.named_buffers()}
    RuntimeRefinement(model, Masked(importance=importance), replay=NO_REPLAY).refinement_cycle(
        loader()
    )
    assert all(value.equal(before[name]) for name, value in model.named_buffers())
    assert model.training


def test_a_closure_optimizer_trains_and_replays():
    model = network()
    refinement = RuntimeRefinement(model, replay=Replay(steps=1, batch_size=8).batches)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    images, labels = loader()[0]

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
        refinement.refinement_cycle(loader(), prune_ratio=0.3)
        assert zeros(model) == refinement.total_parameters - refinement.active_parameters
    adam = torch.optim.Adam(model.parameters())
    adam.step(closure)
    for key, weight in refinement.masks.weights().items():
        assert (adam.state[weight]["exp_avg"][~refinement.masks[key]] == 0).all()


def test_each_refinement_has_a_replay_of_its_own():
    first, second = RuntimeRefinement(network()), RuntimeRefinement(network())
    assert first.parts.replay is not second.parts.replay


def test_a_cut_model_may_move_and_be_loaded_again():
    model = network()
    dense = copy.deepcopy(model.state_dict())
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)
    refinement.refinement_cycle(prune_ratio=0.5)
    model.load_state_dict(dense)
    refinement.masks.zero_cut_()
    scores = magnitude(model, [])
    assert all((scores[key][~mask] == 0).all() for key, mask in refinement.masks.items())


def test_a_floor_whose_measurement_fails_leaves_the_network_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refinement = RuntimeRefinement(model, replay=NO_REPLAY)

    def failing(network):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        refinement.refinement_cycle(loader(), 0.5, validate=failing, floor=0.5)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert (refinement.sparsity, refinement.cycles) == (0, 0)
