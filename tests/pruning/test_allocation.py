import math

import pytest
import torch
from torch import nn

from refine.models import resnet20, simple_cnn
from refine.pruning import allocation, importance
from refine.pruning.allocation import BoundedAllocation
from refine.sparsity import ranking
from refine.sparsity.masks import Masks

RULES = [
    allocation.layerwise,
    allocation.global_,
    allocation.lamp,
    allocation.uniform_plus,
    allocation.er,
    allocation.erk,
]
EXACT = RULES[1:]


@pytest.fixture(params=["whole", "bracketed"])
def few(request, monkeypatch):
    """Both ways of ranking, on tensors that a test can sort."""
    if request.param == "bracketed":
        monkeypatch.setattr(ranking, "FEW", 50)


def network(seed=0, spread=True):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 40, 3), nn.Linear(60, 50), nn.Linear(50, 10)
    )
    if spread:
        model[2].weight.data *= 5
    return model


def test_the_papers_counts_to_the_unit():
    model = simple_cnn()
    masks = Masks(model)
    assert masks.prunable == 581_728
    survivors = []
    for _ in range(3):
        scores = importance.magnitude(model, [])
        masks.cut_(masks.lowest(scores, allocation.layerwise(scores, masks, 0.15)))
        survivors.append(masks.surviving)
    assert survivors == [494_467, 420_296, 357_250]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (total, total - masks.prunable + masks.surviving) == (582_346, 357_868)


@pytest.mark.parametrize("ratio", [0.01, 0.15, 0.5, 0.999])
def test_layerwise_keeps_what_is_above_the_quantile_of_the_survivors(ratio):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 7))
    masks = Masks(model)
    for _ in range(3):
        scores = importance.magnitude(model, [])
        counts = allocation.layerwise(scores, masks, ratio)
        for name, mask in masks.items():
            living = scores[name][mask].double()
            naive = int((living <= torch.quantile(living, ratio)).sum())
            assert counts[name] == min(naive, len(living) - 1)
        masks.cut_(masks.lowest(scores, counts))


def test_global_cuts_the_lowest_of_all():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 7))
    model[1].weight.data *= 10  # so that the share differs between the tensors
    masks = Masks(model)
    for _ in range(2):
        scores = importance.magnitude(model, [])
        every = torch.cat([scores[name][mask] for name, mask in masks.items()])
        wanted = math.floor(0.4 * (len(every) - 1)) + 1
        threshold = every.sort().values[wanted - 1]
        counts = allocation.global_(scores, masks, 0.4)
        assert sum(counts.values()) == wanted
        for name, mask in masks.items():
            assert counts[name] == int((scores[name][mask] <= threshold).sum())
        masks.cut_(masks.lowest(scores, counts))
    assert masks["0.weight"].float().mean() < masks["1.weight"].float().mean()


def test_the_last_survivor_is_never_cut():
    model = nn.Linear(1, 1)
    masks = Masks(model)
    scores = importance.magnitude(model, [])
    assert allocation.layerwise(scores, masks, 0.9) == {"weight": 0}
    assert allocation.global_(scores, masks, 0.9) == {"weight": 0}
    assert [allocation.cut_count(n, 0.999) for n in (0, 1, 2, 1000)] == [0, 0, 1, 999]


def naive_lamp(scores, masks, ratio):
    """Sorts everything; a Python loop over the ranking."""
    ranked = []
    for name, mask in masks.items():
        living = sorted(scores[name][mask].double().tolist())
        shift = min(0.0, living[0])
        squares = [(value - shift) ** 2 for value in living]
        rest = 0.0
        for square in reversed(squares):
            if rest:  # the highest is not in the ranking: it scores 1
                ranked.append((square / (rest + square), name))
            rest += square
    total = sum(int(mask.sum()) for mask in masks.values())
    counts = dict.fromkeys(masks, 0)
    for _, name in sorted(ranked)[: allocation.cut_count(total, ratio)]:
        counts[name] += 1
    return counts


@pytest.mark.parametrize("ratio", [0.01, 0.4, 0.9, 0.999])
@pytest.mark.parametrize("signed", [False, True])
def test_lamp_agrees_with_its_definition(few, ratio, signed):
    model = network()
    masks = Masks(model)
    for _ in range(2):
        scores = {
            name: weight.detach().clone() if signed else weight.detach().abs()
            for name, weight in masks.weights().items()
        }
        counts = allocation.lamp(scores, masks, ratio)
        assert counts == naive_lamp(scores, masks, ratio)
        masks.cut_(masks.lowest(scores, counts))


def test_lamp_by_hand():
    # LAMP of 1, 2, 3: 1/14, 4/13, 1; of 10, 10: 1/2, 1; the lowest two are of the first layer
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(2, 1))
    masks = Masks(model)
    scores = {"0.weight": torch.tensor([[2.0, 1.0, 3.0]]), "1.weight": torch.tensor([[10.0, 10.0]])}
    assert allocation.lamp(scores, masks, 0.3) == {"0.weight": 2, "1.weight": 0}
    assert allocation.lamp(scores, masks, 0.9) == {"0.weight": 2, "1.weight": 1}
    assert allocation.lamp({"0.weight": scores["0.weight"]}, masks, 0.1) == {"0.weight": 1}


def test_lamp_of_zeros_and_of_what_is_not_finite(few):
    masks = Masks(nn.Sequential(nn.Linear(300, 1), nn.Linear(300, 1)))
    scores = {"0.weight": torch.zeros(1, 300), "1.weight": torch.arange(300.0).view(1, 300)}
    counts = allocation.lamp(scores, masks, 0.5)
    assert sum(counts.values()) == 300
    assert counts["0.weight"] == 299  # every zero but the one that its layer keeps
    assert allocation.lamp(scores, masks, 0.25) == {"0.weight": 150, "1.weight": 0}
    assert allocation.lamp(scores, masks, 0.51) == {"0.weight": 299, "1.weight": 7}
    for bad, word in ((float("nan"), "NaN"), (float("inf"), "infinite")):
        scores["1.weight"][0, 5] = bad
        with pytest.raises(ValueError, match=word):
            allocation.lamp(scores, masks, 0.5)


def test_lamp_widens_a_bracket_that_misses(monkeypatch):
    model = network()
    masks = Masks(model)
    scores = {name: weight.detach().abs() for name, weight in masks.weights().items()}
    monkeypatch.setattr(ranking, "FEW", 50)
    monkeypatch.setattr("refine.pruning.lamp.estimate", lambda samples, *_: [0] * len(samples))
    assert allocation.lamp(scores, masks, 0.8) == naive_lamp(scores, masks, 0.8)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9, 0.99])
def test_the_total_is_exact_and_nothing_grows_back(rule, ratio):
    model = resnet20()
    masks = Masks(model)
    for _ in range(3):
        scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
        counts = rule(scores, masks, ratio)
        assert list(counts) == list(masks)
        room = masks.surviving - (0 if rule is allocation.global_ else len(masks))
        assert sum(counts.values()) == min(allocation.cut_count(masks.surviving, ratio), room)
        masks.cut_(masks.lowest(scores, counts))
        if rule is not allocation.global_:
            assert all(mask.any() for mask in masks.values())


@pytest.mark.parametrize("rule", RULES)
def test_only_tensors_with_scores_lose(rule):
    masks = Masks(network())
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items() if name != "2.weight"}
    counts = rule(scores, masks, 0.5)
    assert set(counts) == set(scores)
    total = sum(masks[name].numel() for name in scores)
    if rule is not allocation.layerwise:
        assert sum(counts.values()) == allocation.cut_count(total, 0.5)
    assert rule({}, masks, 0.5) == {}


def test_erdos_renyi_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(10, 20), nn.Linear(1, 2))
    masks = Masks(model)  # 72, 200 and 2 weights
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    # 136 of 274 go and 138 stay. In proportion to 6 : 30 : 3 the last would need 10.6 of its 2,
    # so it keeps these, and 6 : 30 share 136: 22.67 and 113.33
    assert allocation.er(scores, masks, 0.495) == {
        "0.weight": 72 - 23, "1.weight": 200 - 113, "2.weight": 0
    }  # fmt: skip
    # 12 : 30 share 136: 38.86 and 97.14
    assert allocation.erk(scores, masks, 0.495) == {
        "0.weight": 72 - 39, "1.weight": 200 - 97, "2.weight": 0
    }  # fmt: skip


def test_uniform_plus_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(100, 10), nn.Linear(10, 10))
    masks = Masks(model)  # 18, 1000 and 100 weights
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    # 559 stay: 18, and 541 of 1100 are 49.2 %: 491.8 and 49.2
    counts = allocation.uniform_plus(scores, masks, 0.5)
    assert counts == {"0.weight": 0, "1.weight": 1000 - 492, "2.weight": 100 - 49}
    # 112 stay: 18, 20 of the last, and 74
    counts = allocation.uniform_plus(scores, masks, 0.9)
    assert counts == {"0.weight": 0, "1.weight": 1000 - 74, "2.weight": 80}
    # 12 stay: fewer than the two would keep, so all are alike; the smallest keeps one
    counts = allocation.uniform_plus(scores, masks, 0.99)
    assert counts == {"0.weight": 17, "1.weight": 990, "2.weight": 99}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ratio", [0.1, 0.7, 0.97])
def test_without_bounds_a_rule_is_as_it_was(rule, ratio):
    masks = Masks(network())
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    assert BoundedAllocation(rule)(scores, masks, ratio) == rule(scores, masks, ratio)


@pytest.mark.parametrize("rule", RULES)
def test_layers_of_their_own_and_the_rest_by_the_rule(rule):
    masks = Masks(network())
    scores = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    bounded = BoundedAllocation(rule, {"0.weight": 0, "[03]": 0.25, "?.bias*": 0.5} | {"[23]": 0.1})
    with pytest.raises(ValueError, match=r"matches '\?\.bias\*'; they are 0, 1, 2, 3"):
        bounded(scores, masks, 0.5)
    counts = BoundedAllocation(rule, {"0.weight": 0, "[03]": 0.25, "[23]": 0.1})(scores, masks, 0.5)
    own = {"0.weight": 0, "3.weight": 125, "2.weight": 300}  # floor(0.25 499) + 1 and so on
    assert counts == rule({"1.weight": scores["1.weight"]}, masks, 0.5) | own
    assert list(counts) == list(masks)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("least", [0.1, 0.3, 0.5])
def test_every_layer_keeps_its_least_density(rule, least):
    model = network()
    masks = Masks(model)
    scores = {name: weight.detach().abs() for name, weight in masks.weights().items()}
    for _ in range(2):
        free = rule(scores, masks, 0.45)
        counts = BoundedAllocation(rule, min_layer_density=least)(scores, masks, 0.45)
        rooms = {
            name: max(0, int(mask.sum()) - math.ceil(least * mask.numel()))
            for name, mask in masks.items()
        }
        assert all(counts[name] <= rooms[name] for name in masks)
        assert sum(counts.values()) == min(sum(free.values()), sum(rooms.values()))
        if all(free[name] <= rooms[name] for name in masks):
            assert counts == free
        masks.cut_(masks.lowest(scores, counts))


def test_layers_that_are_full_leave_the_cut_to_others_by_the_same_rule():
    model = nn.Sequential(nn.Linear(100, 1), nn.Linear(100, 1), nn.Linear(100, 1))
    masks = Masks(model)
    lowest = torch.arange(100.0).view(1, 100)
    scores = {"0.weight": lowest, "1.weight": lowest + 1000, "2.weight": lowest + 1050}
    counts = BoundedAllocation(allocation.global_, min_layer_density=0.2)(scores, masks, 0.6)
    # 180 go: 80 of the first, and of the others the lowest 100 of their 200 in one ranking
    assert counts == {"0.weight": 80, "1.weight": 75, "2.weight": 25}
