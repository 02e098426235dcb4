"""What may be cut is decided by all owners of a tensor, and what is left alone is said."""

import logging

import pytest
import torch
from conftest import SMALL
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from refine import Masked, Replay, RuntimeRefinement
from refine.export.semi_structured import fitting
from refine.pruning import importance as importances
from refine.pruning.allocation import BoundedAllocation, erk, lamp, layerwise
from refine.pruning.granularity import filter, kernel, n_m
from refine.regrowth import Regrowth, initial
from refine.sparsity.layers import prunable_names

NO_REPLAY = Replay(steps=0)


def refined(model, *, regrowth=None, **settings):
    return RuntimeRefinement(model, Masked(**settings), replay=NO_REPLAY, regrowth=regrowth)


def batches(inputs=8, count=2):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, inputs, generator=generator), torch.arange(6) % 3) for _ in range(count)
    ]


class Tied(nn.Module):
    """A language model whose head has the weight of its embedding."""

    def __init__(self, head_first=False):
        super().__init__()
        torch.manual_seed(0)
        if head_first:
            self.decoder = nn.Linear(4, 12)
        self.encoder = nn.Embedding(12, 4)
        self.body = nn.Linear(4, 4)
        if not head_first:
            self.decoder = nn.Linear(4, 12)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(self.body(self.encoder(tokens)))


class Conv1D(nn.Module):
    """A linear layer as GPT-2 has it: its weight is (inputs, outputs)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return out.view(*x.size()[:-1], self.nf)


def pair():
    """The same network once with linear layers and once with Conv1D."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    turned = nn.Sequential(Conv1D(12, 8), nn.ReLU(), Conv1D(3, 12))
    for here, there in zip(linear, turned, strict=True):
        if isinstance(here, nn.Linear):
            there.weight.data = here.weight.data.t().clone()
            there.bias.data = here.bias.data.clone()
    return linear, turned


@pytest.mark.parametrize("head_first", [False, True])
def test_a_weight_that_an_embedding_owns_too_is_left_alone_unless_named(head_first, caplog):
    model = Tied(head_first)
    name = "decoder.weight" if head_first else "encoder.weight"
    refinement = refined(model)
    assert list(refinement.masks) == ["body.weight"]
    (line,) = [record.message for record in caplog.records]
    assert name in line
    assert "embedding" in line
    assert "prunable=" in line
    refinement.refinement_cycle(prune_ratio=0.5)
    refined(model)  # a second one of the same network, and a cycle, say nothing again
    assert len(caplog.records) == 1
    assert (model.encoder.weight != 0).all()


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.weight"])
def test_a_tied_weight_can_be_named_by_either_of_its_names(name, caplog):
    model = Tied()
    refinement = refined(model, prunable=[name])
    refined(model, prunable=["decoder.weight", "encoder.weight"])  # one tensor
    refined(model, prunable=name)
    refinement.refinement_cycle(prune_ratio=0.5)
    assert refinement.masks.surviving == 24 == int(model.encoder.weight.count_nonzero())
    assert not caplog.records


def test_a_module_of_another_kind_that_owns_the_weight_too_keeps_it_whole(caplog):
    class Kernel(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.table = weight

    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.Linear(4, 4), Kernel(linear.weight))
    assert list(refined(model).masks) == ["1.weight"]
    assert "0.weight" in caplog.text
    assert "Kernel" in caplog.text


def test_gpt2_is_pruned_in_its_layers_and_not_in_its_embedding(caplog):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=101, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    names = [f"transformer.h.{block}.{layer}.weight" for block in range(2) for layer in layers]
    assert prunable_names(model) == names
    refinement = refined(model, granularity=n_m)
    assert "transformer.wte.weight" in caplog.text
    refinement.refinement_cycle(prune_ratio=0.5)
    for name in names:
        weight = model.get_parameter(name)
        assert weight.t().reshape(-1, 4).count_nonzero(1).eq(2).all()  # along the inputs
    assert (model.transformer.wte.weight != 0).all()
    assert refinement.prunable_sparsity == 0.5


SCORES = ["magnitude", "activation", "similarity", "taylor", "fisher", "snip"]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("granularity", [None, filter, kernel, n_m])
def test_conv1d_is_cut_as_the_linear_layer_that_it_is(score, granularity):
    cut = []
    for model in pair():
        settings = {} if granularity is None else {"granularity": granularity}
        chosen = getattr(importances, score)
        refinement = refined(model, importance=chosen, **settings)
        refinement.refinement_cycle(batches(), prune_ratio=0.5)
        turned = isinstance(model[0], Conv1D)
        cut.append([layer.weight.t() if turned else layer.weight for layer in (model[0], model[2])])
        cut[-1] += [model[0].bias, model[2].bias]
    assert any((tensor == 0).any() for tensor in cut[0])
    if score == "similarity" and granularity is not filter:
        return  # filters score alike, and which of their weights go first is left to the order
    for here, there in zip(*cut, strict=True):
        assert torch.equal(here == 0, there == 0)
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("allocation", [erk, lamp, layerwise])
def test_conv1d_is_given_the_same_share(allocation):
    counts = []
    for model in pair():
        bounded = BoundedAllocation(allocation, {"2": 0.25})  # by the layer's name
        counts.append(refined(model, allocation=bounded).refinement_cycle(prune_ratio=0.4).cut)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("start", [initial.kaiming, initial.xavier, initial.fan_in])
def test_what_grows_back_in_conv1d_has_its_own_fan_in(start):
    torch.manual_seed(0)
    model = Conv1D(4, 900)
    regrowth = Regrowth(initial=start, score=lambda m, b, masks, *_: dict(masks))
    refinement = refined(model, regrowth=regrowth)
    model.weight.data[:, 1:] *= 1e-3  # only the first output keeps its weights
    cycle = refinement.refinement_cycle(batches(900), prune_ratio=0.74)
    assert cycle.grown["weight"] == cycle.cut["weight"] > 2000
    grown = model.weight.detach()[:, 1:].abs()
    dense = {"kaiming": (6 / 900) ** 0.5, "xavier": (6 / 904) ** 0.5}
    if start.__name__ in dense:
        assert grown.max() == pytest.approx(dense[start.__name__], rel=0.05)
    else:
        assert grown.std() < 2 * (2 / 900) ** 0.5  # N(0, 2 / 900), not N(0, 2 / 4)


def test_what_grows_back_in_a_transposed_convolution_counts_the_inputs_of_its_outputs():
    torch.manual_seed(0)
    model = nn.ConvTranspose1d(600, 4, 1, groups=2)  # (600, 2 of a group)
    regrowth = Regrowth(initial=initial.fan_in, score=lambda m, b, masks, *_: dict(masks))
    refinement = refined(model, regrowth=regrowth)
    model.weight.data[:, 1:] *= 1e-3
    cycle = refinement.refinement_cycle(prune_ratio=0.74)
    assert cycle.grown["weight"] > 800
    assert model.weight.detach()[:, 1:].std() == pytest.approx((2 / 300) ** 0.5, rel=0.1)


def test_the_last_layer_before_a_tied_or_frozen_head_is_no_output():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[4].requires_grad_(False)
    report = refined(model, granularity=filter).refinement_cycle(prune_ratio=0.5)
    assert report.cut == {"0.weight": 12, "2.weight": 12}
    assert refined(Tied(), granularity=filter).refinement_cycle(prune_ratio=0.5).cut == {
        "body.weight": 8
    }
    named = refined(Tied(), granularity=filter, prunable=["body.weight", "encoder.weight"])
    assert named.refinement_cycle(prune_ratio=0.5).cut == {"body.weight": 8}


def effective(layer):
    """The weight that the layer computes with."""
    layer.eval()(torch.zeros(1, 8))
    return layer.weight.detach()


def weight_norm_old(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


NORMED = {"old": weight_norm_old, "new": parametrizations.weight_norm}
DIRECTION = {"old": "weight_v", "new": "parametrizations.weight.original1"}


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("score", ["magnitude", "activation", "taylor", "movement"])
def test_of_weight_norm_the_direction_is_cut_and_never_the_gain(kind, score):
    torch.manual_seed(0)
    model = nn.Sequential(NORMED[kind](nn.Linear(8, 16)), nn.ReLU(), NORMED[kind](nn.Linear(16, 3)))
    refinement = refined(model, importance=getattr(importances, score), downscale_factor=1.0)
    assert list(refinement.masks) == [f"{place}.{DIRECTION[kind]}" for place in (0, 2)]
    assert refinement.masks.prunable == 8 * 16 + 16 * 3
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(3):
        for inputs, targets in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        report = refinement.refinement_cycle(batches(), prune_ratio=0.5)
    for place in (0, 2):
        layer = model[place]
        model(torch.zeros(1, 8))
        weight, mask = layer.weight.detach(), refinement.masks[f"{place}.{DIRECTION[kind]}"]
        assert torch.equal(weight != 0, mask)
        assert weight.isfinite().all()
        gain = layer.weight_g if kind == "old" else layer.parametrizations.weight.original0
        assert (gain != 0).all()
    assert refinement.prunable_sparsity == pytest.approx(0.875, abs=0.02)
    zeros = sum(int((model[place].weight == 0).sum()) for place in (0, 2))
    assert zeros == refinement.masks.masked
    assert report.active_parameters == report.total_parameters - zeros


@pytest.mark.parametrize("kind", NORMED)
def test_no_row_of_a_direction_is_cut_whole_as_its_norm_divides(kind, caplog):
    torch.manual_seed(0)
    layer = NORMED[kind](nn.Linear(8, 16))
    name = DIRECTION[kind]
    layer.get_parameter(name).data[:8] *= 1e-3  # the first rows go first
    refinement = refined(layer)
    refinement.refinement_cycle(prune_ratio=0.9)
    assert refinement.masks[name].any(1).all()
    assert effective(layer).isfinite().all()
    assert int((effective(layer) != 0).sum()) == refinement.masks.surviving

    channels = nn.Sequential(NORMED[kind](nn.Linear(8, 16)), nn.Linear(16, 4), nn.Linear(4, 2))
    report = refined(channels, granularity=filter).refinement_cycle(prune_ratio=0.5)
    assert set(report.cut) == {"1.weight"}


@pytest.mark.parametrize("kind", NORMED)
def test_a_weight_that_is_made_of_others_is_not_packed(kind):
    layer = NORMED[kind](nn.Linear(64, 32))
    refined(layer, granularity=n_m).refinement_cycle(prune_ratio=0.5)
    layer(torch.zeros(1, 64))
    assert fitting(layer) == []


@pytest.mark.parametrize("kind", NORMED)
def test_downscaling_reaches_the_weight_through_its_gain(kind):
    layer = NORMED[kind](nn.Linear(8, 16))
    refinement = refined(layer, downscale_factor=0.5)
    before = effective(layer)
    refinement.refinement_cycle(prune_ratio=0)
    torch.testing.assert_close(effective(layer), before / 2)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Mixed(nn.Module):
    def forward(self, weight):
        return weight.cumsum(1)


class Product(nn.Module):
    def forward(self, one, two):
        return one * two

    def right_inverse(self, weight):
        return weight, torch.ones_like(weight)


def made(module):
    return lambda layer: parametrize.register_parametrization(layer, "weight", module) or layer


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nn.utils.spectral_norm, "weight_orig"),
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
        (made(Doubled()), "parametrizations.weight.original"),
        (lambda layer: prune.identity(layer, "weight"), "weight_orig"),
    ],
)
def test_a_parametrization_that_keeps_zeros_is_pruned_through(kind, name):
    torch.manual_seed(0)
    layer = kind(nn.Linear(8, 16))
    buffers = {key: value.clone() for key, value in layer.named_buffers()}
    refinement = refined(layer)
    assert list(refinement.masks) == [name]
    for key, value in layer.named_buffers():  # looking changes nothing
        assert torch.equal(value, buffers[key])
    refinement.refinement_cycle(prune_ratio=0.5)
    assert torch.equal(effective(layer) != 0, refinement.masks[name])


def twice(layer):
    return parametrizations.weight_norm(parametrizations.spectral_norm(layer))


MIXING = [parametrizations.orthogonal, made(Mixed()), made(Product()), twice]


@pytest.mark.parametrize("module", MIXING)
def test_a_parametrization_that_mixes_entries_is_left_out_and_refused(module, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(module(nn.Linear(8, 16)), nn.Linear(16, 4))
    assert list(refined(model).masks) == ["1.weight"]
    assert "0.parametrizations.weight.original" in caplog.text
    (name,) = [n for n, _ in model.named_parameters() if n.endswith(("original", "original0"))]
    with pytest.raises(ValueError, match=name.removeprefix("0.")):
        refined(module(nn.Linear(8, 16)), prunable=[name.removeprefix("0.")])


@pytest.mark.parametrize("kind", NORMED)
def test_a_gain_is_refused_by_name(kind):
    layer = NORMED[kind](nn.Linear(8, 16))
    gain = DIRECTION[kind].replace("_v", "_g").replace("1", "0")
    with pytest.raises(ValueError, match=f"{gain}.*gain.*{DIRECTION[kind]}"):
        refined(layer, prunable=[gain])


BY_GRADIENT = ["taylor", "taylor_squared", "fisher", "snip", "movement"]


@pytest.mark.parametrize("score", BY_GRADIENT)
def test_a_frozen_tensor_that_is_named_is_refused_where_the_score_needs_gradients(score):
    _, model = pair()[::-1]
    model[0].requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    refinement = refined(
        model, importance=getattr(importances, score), prunable=["0.weight", "2.weight"]
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"0\.weight is frozen.*no score"):
        refinement.refinement_cycle(batches(), prune_ratio=0.5)
    assert refinement.cycles == 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("score", ["magnitude", "random", "activation", "similarity"])
def test_a_frozen_tensor_that_is_named_is_cut_where_the_score_needs_none(score):
    model = pair()[0]
    trained = pair()[0]
    model[0].requires_grad_(False)
    for network in (model, trained):
        refinement = refined(network, importance=getattr(importances, score), prunable=["0.weight"])
        torch.manual_seed(0)
        assert refinement.refinement_cycle(batches(), prune_ratio=0.5).cut == {"0.weight": 48}
    assert torch.equal(model[0].weight, trained[0].weight)


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_a_frozen_tensor_that_is_not_named_is_left_alone_and_said(score, caplog):
    model = pair()[0]
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    refinement = refined(model, importance=getattr(importances, score))
    refinement.refinement_cycle(batches(), prune_ratio=0.5)
    assert torch.equal(model[0].weight, before)
    (record,) = caplog.records
    assert "0.weight" in record.message
    assert "frozen" in record.message


def test_what_is_frozen_later_is_left_alone_by_a_score_of_gradients_and_said_once(caplog):
    model = pair()[0]
    refinement = refined(model, importance=importances.taylor)
    refinement.refinement_cycle(batches(), prune_ratio=0.25)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    for _ in range(2):
        report = refinement.refinement_cycle(batches(), prune_ratio=0.25)
        assert report.cut.keys() == {"2.weight"}
    assert torch.equal(model[0].weight, before)
    (record,) = caplog.records
    assert record.message == "left alone: 0.weight (frozen)"


class LoRA(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_the_base_of_lora_is_left_alone_and_can_be_named():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(LoRA(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3))

    network = model()
    before = network[0].base.weight.clone()
    refinement = refined(network, importance=importances.taylor)
    assert list(refinement.masks) == ["0.down.weight", "0.up.weight", "2.weight"]
    refinement.refinement_cycle(batches(), prune_ratio=0.5)
    assert torch.equal(network[0].base.weight, before)

    network = model()
    report = refined(network, prunable=["0.base.weight"]).refinement_cycle(prune_ratio=0.5)
    assert report.cut == {"0.base.weight": 64}


def some_scores(model, data):
    """Scores for the first layer only."""
    return {"0.weight": model[0].weight.detach().abs()}


def test_what_an_importance_of_ones_own_does_not_score_is_left_alone_entirely(caplog):
    model = pair()[0]
    before = model[2].weight.clone()
    refinement = refined(model, importance=some_scores)
    for _ in range(2):
        assert refinement.refinement_cycle(prune_ratio=0.5).cut.keys() == {"0.weight"}
    assert torch.equal(model[2].weight, before)
    (record,) = caplog.records
    assert "2.weight" in record.message
    assert "some_scores" in record.message


@pytest.mark.parametrize(
    "score", [lambda model, data: {}, lambda model, data: {"nothing": 1}, lambda model, data: None]
)
def test_an_importance_that_returns_nothing_is_an_error(score):
    model = pair()[0]
    before = model[0].weight.clone()
    refinement = refined(model, importance=score)
    with pytest.raises(ValueError, match="no score"):
        refinement.refinement_cycle(prune_ratio=0.5)
    assert refinement.cycles == 0
    assert torch.equal(model[0].weight, before)


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"allocation": BoundedAllocation(layerwise, min_layer_density=0.999999999)},
            "min_layer_density=0.999999999",
        ),
        ({"allocation": BoundedAllocation(layerwise, {"1": 0.0})}, "layers"),
        ({"granularity": lambda m, names: n_m(m, names, n=2, m=1_000_000)}, "granularity"),
        ({"granularity": filter}, "granularity"),
    ],
)
def test_a_cycle_that_cuts_nothing_says_why_and_changes_nothing(settings, reason, caplog):
    model = logistic()
    before = model[1].weight.clone()
    refinement = refined(model, **settings)
    report = refinement.refinement_cycle(prune_ratio=0.5)
    assert not any(report.cut.values())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cuts nothing" in record.message
    assert reason in record.message
    assert torch.equal(model[1].weight, before)


def test_a_cycle_that_has_nothing_to_cut_for_a_good_reason_warns_of_nothing(caplog):
    model = logistic()
    refined(model).refinement_cycle(prune_ratio=0.01)
    refinement = refined(logistic(), granularity=n_m)
    for _ in range(2):  # the second finds the pattern already there
        refinement.refinement_cycle(prune_ratio=0.5)
    refined(pair()[0], granularity=filter).refinement_cycle(prune_ratio=0.001)  # no whole filter
    refined(logistic(), importance=importances.none).refinement_cycle(prune_ratio=0.5)
    refined(logistic()).refinement_cycle(
        batches(), 0.5, floor=1.0, validate=lambda model: 0.0
    )  # the floor allows no cut
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_granularity_of_the_annotated_type_works():
    seen = []

    def mine(model: nn.Module, names, /):
        seen.append(list(names))
        return filter(model, names)

    report = refined(pair()[0], granularity=mine).refinement_cycle(prune_ratio=0.5)
    assert seen == [["0.weight", "2.weight"]]
    assert report.cut == {"0.weight": 48}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.Linear(4, 4).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: nn.Linear(4, 4, dtype=torch.complex128), "complex128"),
        (lambda: nn.Linear(4, 4, device="meta"), "meta"),
    ],
)
def test_a_tensor_that_cannot_be_held_at_zero_is_left_out_or_refused(layer, reason, caplog):
    with pytest.raises(ValueError, match=reason):
        refined(layer())
    with pytest.raises(ValueError, match=f"weight.*{reason}"):
        refined(layer(), prunable=["weight"])
    model = nn.Sequential(layer(), nn.Linear(4, 4))
    assert list(refined(model).masks) == ["1.weight"]
    assert reason in caplog.text


def test_a_network_without_shapes_is_refused():
    with pytest.raises(ValueError, match=r"0\.weight has no shape.*batch"):
        refined(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4)))


def test_complex64_is_pruned_by_its_absolute_value():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, dtype=torch.complex64)
    before = layer.weight.detach().abs()
    refinement = refined(layer)
    assert refinement.refinement_cycle(prune_ratio=0.5).cut == {"weight": 8}
    assert (layer.weight == 0).sum() == 8
    assert before[layer.weight == 0].max() < before[layer.weight != 0].min()


@pytest.mark.parametrize(
    "settings",
    [
        ["pruner.min_layer_density=0.999999999"],
        ["pruner.granularity=n_m", "pruner.n=2", "pruner.m=1000000"],
        ["pruner.granularity=filter"],
    ],
)
def test_a_run_whose_cycle_cuts_nothing_says_so_and_ends_well(settings, command, tmp_path):
    done = command(
        "dataset=digits", "model=logistic", "device=cpu", *SMALL, *settings, "output_dir=run"
    )
    assert done.code == 0
    (line,) = [x for x in (tmp_path / "run" / "run.log").read_text().splitlines() if "cuts" in x]
    assert "WARNING" in line
    assert "cycle 1 cuts nothing" in line
    assert "cuts nothing" in done.out + done.err
