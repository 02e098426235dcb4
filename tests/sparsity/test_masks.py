import pytest
import torch
from torch import nn

from refine.sparsity.layers import prunable_names
from refine.sparsity.masks import Masks
from refine.sparsity.ranking import lowest


def linear(weights):
    model = nn.Linear(len(weights), 1)
    model.weight.data = torch.tensor([weights])
    return model


def test_the_lowest_go_and_ties_go_by_index():
    model = linear([3.0, -1.0, 1.0, 0.5, -1.0])
    masks = Masks(model)
    masks.cut_(masks.lowest({"weight": model.weight.detach().abs()}, {"weight": 3}))
    # 0.5 first, then two of the three ones, the earlier ones
    assert masks["weight"].tolist() == [[True, False, False, False, True]]
    assert model.weight.tolist() == [[3.0, 0.0, 0.0, 0.0, -1.0]]
    assert (masks.surviving, masks.prunable) == (2, 5)


def test_only_survivors_are_cut():
    model = linear([3.0, -1.0, 1.5, 0.5])
    masks = Masks(model)
    for expected in ([3.0, -1.0, 1.5, 0.0], [3.0, 0.0, 1.5, 0.0], [3.0, 0.0, 0.0, 0.0]):
        masks.cut_(masks.lowest({"weight": model.weight.detach().abs()}, {"weight": 1}))
        assert model.weight.tolist() == [expected]


def test_lowest_agrees_with_a_stable_sort():
    torch.manual_seed(0)
    for count in (1, 17, 99):
        scores = torch.randint(20, (10, 20)).float()  # many ties
        alive = torch.rand(10, 20) < 0.6
        marked = lowest(scores, alive, count)
        order = [i for i in scores.flatten().argsort(stable=True).tolist() if alive.flatten()[i]]
        assert sorted(order[:count]) == marked.flatten().nonzero().flatten().tolist()


def test_a_cut_weight_becomes_plus_zero_whatever_it_was():
    model = linear([1.0, 2.0, 3.0, 4.0])
    masks = Masks(model)
    masks.cut_(masks.lowest({"weight": torch.tensor([[1.0, 1.0, 1.0, 2.0]])}, {"weight": 3}))
    model.weight.data = torch.tensor([[-1.0, float("nan"), float("inf"), -4.0]])
    masks.zero_cut_()
    assert model.weight.tolist() == [[0.0, 0.0, 0.0, -4.0]]
    assert not model.weight.signbit()[0, :3].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    model = linear([1.0, 2.0, 3.0]).to(dtype)
    masks = Masks(model)
    masks.cut_(masks.lowest({"weight": model.weight.detach().abs()}, {"weight": 2}))
    model.weight.data.fill_(-7)
    masks.zero_cut_()
    assert model.weight.tolist() == [[0.0, 0.0, -7.0]]


def test_a_nan_score_or_too_large_a_count_cuts_nothing():
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2))
    masks = Masks(model)
    before = [weight.clone() for weight in model.parameters()]
    scores = {"0.weight": torch.ones(1, 3), "1.weight": torch.tensor([[1.0], [float("nan")]])}
    with pytest.raises(ValueError, match="NaN"):
        masks.lowest(scores, {"0.weight": 1, "1.weight": 1})
    with pytest.raises(ValueError, match="4 of 3"):
        masks.lowest({"0.weight": torch.ones(1, 3)}, {"0.weight": 4})
    assert masks.surviving == masks.prunable == 5
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


def test_prunable_are_weights_of_layers_only():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 8),
            "attention": nn.TransformerEncoderLayer(8, 2, 16),
            "recurrent": nn.LSTM(8, 4),
            "convolution": nn.ConvTranspose1d(3, 4, 3),
            "norm": nn.LayerNorm([4, 4]),
        }
    )
    assert set(prunable_names(model)) == {
        "attention.self_attn.in_proj_weight",
        "attention.self_attn.out_proj.weight",
        "attention.linear1.weight",
        "attention.linear2.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "convolution.weight",
    }


def test_nothing_to_prune_is_said():
    with pytest.raises(ValueError, match="prunable="):
        Masks(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="no parameter 'wieght'"):
        Masks(nn.Linear(2, 2), ["wieght"])
    assert list(Masks(nn.Embedding(3, 4), ["weight"])) == ["weight"]


def test_the_model_may_move_change_its_precision_and_replace_its_parameters():
    model = nn.Sequential(linear([1.0, 2.0, 3.0]))
    masks = Masks(model)
    masks.cut_(masks.lowest({"0.weight": model[0].weight.detach()}, {"0.weight": 1}))
    for change in (
        lambda: model.double(),
        lambda: model.bfloat16(),
        lambda: setattr(model[0], "weight", nn.Parameter(torch.ones(1, 3))),
    ):
        change()
        model[0].weight.data.fill_(5)
        masks.zero_cut_()
        assert model[0].weight.tolist() == [[0.0, 5.0, 5.0]]


def test_scores_of_another_shape_are_refused_before_anything_is_cut():
    model = linear([1.0, 2.0, 3.0])
    masks = Masks(model)
    with pytest.raises(ValueError, match="do not fit"):
        masks.lowest({"weight": torch.ones(3)}, {"weight": 1})
    with pytest.raises(ValueError, match="do not fit"):
        masks.lowest({"bias": torch.ones(1)}, {"bias": 1})


def test_frozen_layers_are_not_prunable():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert prunable_names(model) == ["1.weight"]
