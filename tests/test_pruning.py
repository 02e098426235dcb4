import math

import pytest
import torch
from torch import nn

from refine import build, config
from refine.masks import Masks
from refine.models import simple_cnn
from refine.pruning import allocation, importance


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


def test_random_follows_the_seed_and_none_cuts_nothing():
    model = nn.Linear(4, 4)
    torch.manual_seed(1)
    first = importance.random(model, [])["weight"]
    second = importance.random(model, [])["weight"]
    torch.manual_seed(1)
    assert importance.random(model, [])["weight"].equal(first)
    assert not first.equal(second)
    masks = Masks(model)
    for allocate in build.public_functions(allocation).values():
        assert allocate(importance.none(model, []), masks, 0.5) == {}


@pytest.mark.parametrize(
    ("choices", "module"),
    [
        (config.IMPORTANCES, "refine.pruning.importance"),
        (config.ALLOCATIONS, "refine.pruning.allocation"),
        (config.SELECTIONS, "refine.replay"),
        (config.AUGMENTATIONS, "refine.datasets.augmentation"),
    ],
)
def test_every_function_has_its_line_of_help_and_every_line_its_function(choices, module):
    from importlib import import_module

    assert set(choices) == set(build.public_functions(import_module(module)))
