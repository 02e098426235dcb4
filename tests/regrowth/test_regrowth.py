import copy
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from refine.config import instantiate
from refine.regrowth import allocation as regrowth_allocation
from refine.regrowth import initial as initial_value
from refine.regrowth import score as regrowth_score
from refine.regrowth.allocation import Candidates
from refine.regrowth.reference import Reference
from refine.regrowth.regrowth import Regrowth
from refine.regrowth.shares import shared
from refine.regrowth.similarity import feature_similarity
from refine.sparsity.masks import Masks
from refine.sparsity.ranking import highest
from refine.sparsity.watching import watch

SCORES = instantiate.public_functions(regrowth_score)
ALLOCATIONS = instantiate.public_functions(regrowth_allocation)
INITIALS = instantiate.public_functions(initial_value)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3),
        nn.Conv2d(6, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 5),
    )  # fmt: skip


def pruned(share=0.6, model=None):
    """A network of which a reference was made and then ``share`` cut; its data."""
    model = model or convolutional()
    masks = watch(model).masks
    dense = Reference.of(model, masks)
    draws = {n: torch.rand(m.shape, generator=generator(1)) for n, m in masks.items()}
    masks.cut_({name: drawn < share for name, drawn in draws.items()})
    data = [
        (torch.randn(8, 3, 8, 8, generator=generator(s)), torch.randint(5, (8,))) for s in (2, 3)
    ]
    return model, masks, dense, data


def bits(model, optimizers=()):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---- which


@pytest.mark.long
def test_choosing_is_faster_than_one_topk(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delitem(sys.modules, "benchmark_regrowth", raising=False)
    from benchmark_regrowth import measure

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = measure()
    torch.set_num_threads(threads)
    assert seconds["choice"] < seconds["topk"]


# ---- how many


def test_shares_by_hand():
    room = {"a": 10, "b": 10, "c": 10}
    assert shared({"a": 1, "b": 1, "c": 1}, room, 10) == {"a": 4, "b": 3, "c": 3}
    assert shared({"a": 8, "b": 1, "c": 1}, room, 16) == {"a": 10, "b": 3, "c": 3}
    assert shared({"a": 1}, room, 14) == {"a": 10, "b": 2, "c": 2}
    assert shared({"a": 0.5, "b": 0.3, "c": 0.2}, room, 7) == {"a": 4, "b": 2, "c": 1}
    assert shared({}, room, 99) == room


def candidates(budget, masks=None, **more):
    masks = masks or {
        "a": torch.tensor([True] * 4 + [False] * 6),
        "b": torch.zeros(20, dtype=torch.bool),
        "c": torch.ones(5, dtype=torch.bool),
        "d": torch.arange(9) < 6,
    }
    scores = {
        n: torch.rand(m.shape, generator=generator(i)) for i, (n, m) in enumerate(masks.items())
    }
    settings = {
        "lost": {"a": 2, "b": 5, "d": 1},
        "similarity": lambda: {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.2},
        "reward": lambda counts: counts["b"] / 20,
    }
    return Candidates(scores, masks, budget, **settings | more)


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("budget", [0, 1, 8, 28, 29, 1000])
def test_every_allocation_spends_the_budget_and_no_more_than_there_is(name, budget):
    more = {"episodes": 3} if name == "controller" else {}
    asked = candidates(budget)
    counts = ALLOCATIONS[name](asked, **more)
    assert set(counts) == set(asked.masks)
    assert sum(counts.values()) == min(budget, 29)
    assert all(0 <= counts[n] <= capacity for n, capacity in asked.capacities.items())


def test_allocations_by_hand():
    assert regrowth_allocation.cut(candidates(8)) == {"a": 2, "b": 5, "c": 0, "d": 1}
    assert regrowth_allocation.uniform(candidates(14)) == {"a": 3, "b": 10, "c": 0, "d": 1}
    assert regrowth_allocation.greedy(candidates(8)) == {"a": 0, "b": 5, "c": 0, "d": 3}
    # 1 - SSIM is 0.1, 0.5, 0.8: d fills up at 3, and a and b share 12 as 1 to 5
    assert regrowth_allocation.proportional(candidates(15)) == {"a": 2, "b": 10, "c": 0, "d": 3}
    asked = candidates(7)
    every = [(float(s), n) for n, m in asked.masks.items() for s in asked.scores[n][~m]]
    best = [name for _, name in sorted(every)[-7:]]
    assert regrowth_allocation.global_(asked) == {n: best.count(n) for n in asked.masks}


# ---- scores


@pytest.mark.parametrize("name", SCORES)
def test_a_score_leaves_no_trace(name):
    model, masks, dense, data = pruned()
    optimizer = torch.optim.Adam(model.parameters())
    F.cross_entropy(model(data[0][0]), data[0][1]).backward()
    optimizer.step()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(1)
    before, gradients = bits(model), [p.grad.clone() for p in model.parameters()]
    drawn = torch.get_rng_state()
    score = SCORES[name](model, data, masks, dense, F.cross_entropy, generator())
    assert {n: s.shape for n, s in score.items()} == {n: m.shape for n, m in masks.items()}
    assert all(tensor.equal(before[n]) for n, tensor in model.state_dict().items())
    assert all(p.grad.equal(g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.get_rng_state().equal(drawn)
    assert all(module.training for module in model.modules())
    again = SCORES[name](model, data, masks, dense, F.cross_entropy, generator())
    assert all(again[n].equal(score[n]) for n in masks)


def test_gradient_is_that_of_the_mean_and_saliency_that_of_the_dense_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5))
    masks = Masks(model)
    dense, original = Reference.of(model, masks), copy.deepcopy(model)
    masks.cut_({name: torch.rand(mask.shape) < 0.6 for name, mask in masks.items()})
    data = [(torch.randn(8, 12), torch.randint(5, (8,))) for _ in range(3)]
    arguments = (model, data, masks, dense, F.cross_entropy, generator())
    found, salient = regrowth_score.gradient(*arguments), regrowth_score.saliency(*arguments)
    every = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    F.cross_entropy(model(every[0]), every[1]).backward()
    for name, weight in masks.weights().items():
        torch.testing.assert_close(found[name], weight.grad.abs())
        assert (salient[name][~masks[name]] > 0).all()
    naive = dict.fromkeys(masks, 0)
    for inputs, targets in data:
        original.zero_grad()
        F.cross_entropy(original(inputs), targets).backward()
        for name, weight in original.named_parameters():
            if name in naive:
                naive[name] = naive[name] + (weight.grad * weight).detach() ** 2 / 3
    for name in masks:
        torch.testing.assert_close(salient[name], naive[name])


def test_reference_prefers_what_its_mask_keeps():
    model = nn.Linear(40, 10)
    masks = Masks(model)
    kept = torch.rand(10, 40) < 0.3
    dense = Reference({"weight": model.weight.detach().clone()}, {"weight": kept})
    masks.cut_({"weight": torch.ones(10, 40, dtype=torch.bool)})
    score = regrowth_score.reference(model, [], masks, dense, F.mse_loss, generator())
    few, many = (highest(score, {"weight": ~masks["weight"]}, n)["weight"] for n in (50, 300))
    assert few.sum() == 50
    assert not (few & ~kept).any()
    assert many.sum() == 300
    assert not (kept & ~many).any()
    other = regrowth_score.reference(model, [], masks, dense, F.mse_loss, generator(1))
    assert not highest(other, {"weight": ~masks["weight"]}, 50)["weight"].equal(few)


def test_a_score_says_what_it_lacks():
    model, masks, _, data = pruned()
    for name in ("saliency", "reference"):
        with pytest.raises(ValueError, match=f"{name}.*needs a reference"):
            SCORES[name](model, data, masks, None, F.cross_entropy, generator())
    with pytest.raises(ValueError, match="no batch"):
        regrowth_score.gradient(model, [], masks, None, F.cross_entropy, generator())


# ---- the reference


def test_a_reference_of_a_file_is_that_of_the_network():
    model, masks, _, _ = pruned()
    of, read = Reference.of(model, masks), Reference.from_tensors(model.state_dict(), masks)
    for name in masks:
        assert read.values[name].equal(of.values[name])
        assert read.masks[name].equal(masks[name])
    assert set(read.others) == set(of.others)
    assert "1.running_mean" in read.others
    with pytest.raises(ValueError, match=r"no tensor '0.weight'"):
        Reference.from_tensors({}, masks)


def test_a_reference_goes_even_if_what_is_done_with_it_fails():
    model, _, dense, _ = pruned()
    before = bits(model)
    with pytest.raises(RuntimeError), dense.in_place(model):
        model(torch.ones(1))
    assert all(tensor.equal(before[n]) for n, tensor in model.state_dict().items())
    short = Reference({"0.weight": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="another shape"), short.in_place(model):
        pass


# ---- initial values


@pytest.mark.parametrize("name", INITIALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_initial_values(name, dtype):
    layer = nn.Conv2d(8, 16, 3).to(dtype)
    alive = torch.rand(16, 8, 3, 3) < 0.2
    marked = ~alive & (torch.rand(16, 8, 3, 3) < 0.5)
    dense, old = torch.randn(16, 8, 3, 3), torch.randn(16, 8, 3, 3)
    values = INITIALS[name](layer.weight, alive, marked, dense, old, generator())
    assert values.shape == (int(marked.sum()),)
    assert values.dtype == dtype
    wide = values.float()
    if name == "zero":
        assert not wide.any()
    elif name in ("reference", "stale"):
        assert values.equal({"reference": dense, "stale": old}[name][marked].to(dtype))
        with pytest.raises(ValueError, match=name):
            INITIALS[name](layer.weight, alive, marked, None, None, generator())
    elif name == "fan_in":
        inputs = (alive | marked).sum((1, 2, 3))
        row = marked.nonzero()[:, 0]
        assert (wide / (2 / inputs[row]).sqrt()).std() == pytest.approx(1, abs=0.1)
    else:
        full = torch.empty(16, 8, 3, 3)
        getattr(nn.init, f"{name}_uniform_")(full)
        assert wide.abs().max() == pytest.approx(float(full.abs().max()), rel=0.05)
        assert wide.std() == pytest.approx(float(full.std()), rel=0.1)


# ---- growing and training


def make_optimizer(kind, model):
    if kind == "adam":
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def train(model, optimizer, data, steps=3):
    for _ in range(steps):
        for inputs, targets in data:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_regrown_weight_starts_without_moments_and_trains_on(kind):
    model, masks, _, data = pruned(0.0)
    optimizer = make_optimizer(kind, model)
    train(model, optimizer, data)  # moments for all
    cut = {name: torch.rand(mask.shape) < 0.5 for name, mask in masks.items()}
    masks.cut_(cut)
    watch(model).zero_moments_()
    train(model, optimizer, data)
    marked = {n: going & (torch.rand(going.shape) < 0.5) for n, going in cut.items()}
    values = {name: torch.randn(int(mark.sum())) for name, mark in marked.items()}
    masks.grow_(marked, values)
    moment = "exp_avg" if kind == "adam" else "momentum_buffer"
    for name, weight in masks.weights().items():
        assert weight[marked[name]].equal(values[name])
        assert not optimizer.state[weight][moment][marked[name]].any()
        assert optimizer.state[weight][moment][masks[name] & ~marked[name]].all()
    train(model, optimizer, data)
    for name, weight in masks.weights().items():
        assert masks[name].equal(~cut[name] | marked[name])
        assert not weight[~masks[name]].any()
        assert (weight[marked[name]] != values[name]).float().mean() > 0.9


def test_what_does_not_fit_grows_nothing():
    model, masks, _, _ = pruned()
    before, surviving = bits(model), masks.surviving
    dead = {name: ~mask for name, mask in masks.items()}
    for marked, length in (({**dead, "8.weight": masks["8.weight"]}, None), (dead, 1)):
        values = {n: torch.ones(length or int(mark.sum())) for n, mark in marked.items()}
        with pytest.raises(ValueError, match="does not fit the cut weights"):
            masks.grow_(marked, values)
    assert masks.surviving == surviving
    assert all(tensor.equal(before[n]) for n, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_only_the_regrown_train_until_they_no_longer_do(kind):
    model, masks, _, data = pruned()
    optimizer = make_optimizer(kind, model)
    train(model, optimizer, data)
    regrown = Regrowth(initial=initial_value.kaiming, budget=0.1).regrow_(model, masks, data)
    watching = watch(model)
    watching.train_only_(regrown.marked)
    before = bits(model)
    train(model, optimizer, data)
    for name, tensor in model.state_dict().items():
        kept = ~regrown.marked.get(name, torch.zeros_like(tensor, dtype=torch.bool))
        if "running" not in name and "num_batches" not in name:
            assert tensor[kept].equal(before[name][kept])
            assert (tensor != before[name])[~kept].float().mean() > 0.9 or kept.all()
    assert not model[1].running_mean.equal(before["1.running_mean"])

    other = copy.deepcopy(model)  # as from a checkpoint: weights, masks, what is free
    watch(other).masks.cut_({name: ~mask for name, mask in masks.items()})
    watch(other).train_only_(**watching.frozen())
    frozen = bits(other)
    train(other, make_optimizer(kind, other), data)
    assert all(p.equal(frozen[n]) for n, p in other.named_parameters() if n not in masks)

    watching.train_all_()
    assert watching.frozen()["free"] == {}
    train(model, optimizer, data)
    assert all((p != before[n]).any() for n, p in model.named_parameters() if "bias" not in n)
    assert all(not w[~masks[n]].any() for n, w in masks.weights().items())


def test_what_is_frozen_may_move_to_another_precision():
    model, masks, _, data = pruned()
    watch(model).train_only_({"8.weight": masks["8.weight"]})
    for dtype in (torch.bfloat16, torch.float64):
        model.to(dtype)
        before = bits(model)
        cast = [(inputs.to(dtype), targets) for inputs, targets in data]
        train(model, torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5), cast)
        assert model[0].weight.equal(before["0.weight"])
        assert model[8].weight[~masks["8.weight"]].equal(before["8.weight"][~masks["8.weight"]])
        assert not model[8].weight.equal(before["8.weight"])


# ---- the whole


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("allocation", ["cut", "global", "greedy"])
def test_the_whole_step(score, allocation):
    model, masks, dense, data = pruned()
    regrowth = Regrowth(
        SCORES[score], ALLOCATIONS[allocation], INITIALS["reference"], 0.125, reference=dense
    )
    alive = {name: mask.clone() for name, mask in masks.items()}
    before = bits(model)
    regrown = regrowth.regrow_(model, masks, data)
    assert sum(regrown.counts.values()) == masks.prunable // 8
    for name, weight in masks.weights().items():
        marked = regrown.marked.get(name, torch.zeros_like(masks[name]))
        assert int(marked.sum()) == regrown.counts[name]
        assert not (marked & alive[name]).any()
        assert masks[name].equal(alive[name] | marked)
        assert weight.equal(torch.where(marked, dense.values[name], before[name]))


def test_budgets():
    model, masks, _, _ = pruned(0.0)
    masks.cut_({name: torch.rand(mask.shape) < 0.5 for name, mask in masks.items()})
    dead = masks.prunable - masks.surviving
    assert Regrowth().count(masks) == 0
    assert Regrowth(budget=0.01).count(masks) == masks.prunable // 100
    assert Regrowth(budget=1).count(masks) == dead
    assert Regrowth(target_sparsity=0.0).count(masks) == dead
    assert Regrowth(target_sparsity=0.9).count(masks) == 0
    regrowth = Regrowth(regrowth_score.random, target_sparsity=0.29)
    regrowth.regrow_(model, masks)
    assert masks.prunable - masks.surviving == round(0.29 * masks.prunable)
    for wrong in ({"budget": 0.1, "target_sparsity": 0.1}, {"budget": 1.5}):
        with pytest.raises(ValueError, match="budget"):
            Regrowth(**wrong)


def test_what_a_cycle_cut_returns_to_where_it_was():
    model, masks, _, _ = pruned(0.3)
    regrowth = Regrowth(regrowth_score.random, initial=initial_value.stale)
    alive, before = {n: m.clone() for n, m in masks.items()}, bits(model)
    marked = {n: m & (torch.rand(m.shape, generator=generator(4)) < 0.5) for n, m in masks.items()}
    regrowth.note_cut(1, model, masks, marked)
    masks.cut_(marked)
    kept = regrowth.state_dict()
    regrown = regrowth.regrow_(model, masks)
    assert regrown.counts == {name: int(going.sum()) for name, going in marked.items()}
    for name, weight in masks.weights().items():
        same = regrown.marked[name] & alive[name]
        assert same.any()
        assert weight[same].equal(before[name][same])
    assert regrowth.regrow_(model, masks).marked == {}  # nothing was cut since

    other = Regrowth(regrowth_score.random, initial=initial_value.stale)
    other.load_state_dict(kept)
    fresh = convolutional()
    its = Masks(fresh)
    its.cut_({name: ~alive[name] | marked[name] for name in its})
    again = other.regrow_(fresh, its)
    assert all(again.marked[n].equal(regrown.marked[n]) for n in its)
    assert all(again.values[n].equal(regrown.values[n]) for n in its)


def test_no_regrowth_costs_and_draws_nothing():
    model, masks, _, _ = pruned()
    none = Regrowth(budget=0)
    state, before = none.generator.get_state(), bits(model)
    regrown = none.regrow_(model, masks, batches=None)
    assert (regrown.marked, set(regrown.counts.values())) == ({}, {0})
    assert none.generator.get_state().equal(state)
    assert all(tensor.equal(before[n]) for n, tensor in model.state_dict().items())


def test_a_controller_is_told_how_good_each_trial_is():
    from functools import partial

    model, masks, _, data = pruned()
    seen = []

    def good(regrown):
        return regrown.counts["8.weight"] / 1000

    def reward(regrown):
        torch.rand(3)
        seen.append(regrown)
        return good(regrown)

    allocation = partial(regrowth_allocation.controller, episodes=6)
    regrowth = Regrowth(regrowth_score.random, allocation, initial_value.kaiming, budget=0.1)
    drawn = torch.get_rng_state()
    regrown = regrowth.regrow_(model, masks, data, reward=reward)
    assert torch.get_rng_state().equal(drawn)
    best = max(seen, key=good)
    assert len(seen) == 6
    assert regrown.counts == best.counts
    assert all(regrown.values[n].equal(best.values[n]) for n in best.values)
    with pytest.raises(ValueError, match="reward"):
        regrowth.regrow_(model, masks, data)


# ---- feature maps


def ssim(a, b, window):
    """Mean over all windows, padded by reflection; uniform weights."""
    import numpy as np

    pad = window // 2
    a, b = (np.pad(x.double().numpy(), pad, mode="reflect") for x in (a, b))
    found = []
    for i in range(a.shape[0] - 2 * pad):
        for j in range(a.shape[1] - 2 * pad):
            x, y = (m[i : i + window, j : j + window] for m in (a, b))
            cov = ((x - x.mean()) * (y - y.mean())).mean()
            found.append(
                (2 * x.mean() * y.mean() + 1e-4) * (2 * cov + 9e-4)
                / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (x.var() + y.var() + 9e-4))
            )  # fmt: skip
    return sum(found) / len(found)


def test_similarity_agrees_with_all_maps_at_once():
    model, masks, dense, data = pruned(0.9)
    before, drawn = bits(model), torch.get_rng_state()
    found = feature_similarity(model, data, masks, dense)
    assert all(tensor.equal(before[n]) for n, tensor in model.state_dict().items())
    assert torch.get_rng_state().equal(drawn)
    assert found.keys() == masks.keys()
    assert found["8.weight"] == 0.5

    def maps(net):
        inputs, found = torch.cat([inputs for inputs, _ in data]), []
        for layer in net.eval():
            inputs = layer(inputs)
            if isinstance(layer, nn.Conv2d):
                image = inputs.detach().sum(1)
                image = (image / image.abs().sum((1, 2), keepdim=True)).mean(0)
                found.append((image - image.min()) / (image.max() - image.min()))
        return found

    pairs = zip(maps(model), maps(convolutional()), strict=True)
    for (name, window), (now, then) in zip((("0.weight", 7), ("4.weight", 3)), pairs, strict=True):
        assert found[name] == pytest.approx(ssim(now, then, window), abs=1e-4)
        assert found[name] < 0.99


def test_similarity_of_the_same_and_of_small_maps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    masks = Masks(model)
    found = feature_similarity(
        model, [(torch.randn(4, 1, 6, 6), None)], masks, Reference.of(model, masks)
    )
    assert found == {"0.weight": pytest.approx(1, abs=1e-5), "1.weight": 0.5, "3.weight": 0.5}


def test_a_score_of_ones_own_is_given_the_reference():
    model, masks, dense, data = pruned()
    seen = []

    def own(model, batches, alive, reference, loss, generator):
        seen.append(reference)
        return {name: torch.rand(mask.shape, generator=generator) for name, mask in alive.items()}

    Regrowth(own, ALLOCATIONS["uniform"], budget=0.1, reference=dense).regrow_(model, masks, data)
    assert seen == [dense]
