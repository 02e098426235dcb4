import pytest
import torch
from torch import nn

from refine.config import choices, instantiate
from refine.pruning import allocation, importance
from refine.sparsity.masks import Masks


def test_random_follows_the_seed_and_none_cuts_nothing():
    model = nn.Linear(4, 4)
    torch.manual_seed(1)
    first = importance.random(model, [])["weight"]
    second = importance.random(model, [])["weight"]
    torch.manual_seed(1)
    assert importance.random(model, [])["weight"].equal(first)
    assert not first.equal(second)
    masks = Masks(model)
    for allocate in instantiate.public_functions(allocation).values():
        assert allocate(importance.none(model, []), masks, 0.5) == {}


@pytest.mark.parametrize(
    ("table", "module"),
    [
        (choices.IMPORTANCES, "refine.pruning.importance"),
        (choices.ALLOCATIONS, "refine.pruning.allocation"),
        (choices.SELECTIONS, "refine.replay.priority"),
        (choices.SAMPLINGS, "refine.replay.sampling"),
        (choices.SPLITS, "refine.datasets.course"),
        (choices.AUGMENTATIONS, "refine.datasets.augmentation"),
    ],
)
def test_every_function_has_its_line_of_help_and_every_line_its_function(table, module):
    from importlib import import_module

    assert set(table) == set(instantiate.public_functions(import_module(module)))
