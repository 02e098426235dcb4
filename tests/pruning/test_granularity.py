import pytest
import torch
from runs import refused
from torch import nn

from refine.models import resnet20, simple_cnn
from refine.pruning import allocation, granularity
from refine.pruning.granularity import distinct, nearest
from refine.sparsity.layers import by_output, from_output
from refine.sparsity.masks import Masks
from refine.sparsity.topology import attached, output_tensors, traced


def cut(masks, scores, way, ratio, allocate=allocation.layerwise):
    """A whole cut by a granularity; gives the counts back."""
    grouped = way.group(scores, masks)
    counts = way.whole(grouped, masks, allocate(grouped, masks, ratio))
    marked = masks.lowest(grouped, counts)
    masks.cut_(marked)
    return counts


def random_scores(masks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(mask.shape, generator=generator) for name, mask in masks.items()}


class Varied(nn.Module):
    """A layer of every kind whose channels lie differently."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = self.up_norm(self.up(x)).relu()
        return self.head(self.grouped(x).mean((2, 3)))


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("allocate", [allocation.layerwise, allocation.global_, allocation.lamp])
@pytest.mark.parametrize("ties", [False, True])
def test_filters_go_whole(ratio, allocate, ties):
    model = Varied()
    masks = Masks(model)
    way = granularity.filter(model)
    assert way.left_out == ("head.weight",)
    for seed in range(3):
        scores = random_scores(masks, seed)
        if ties:
            scores = {name: torch.ones_like(values) for name, values in scores.items()}
        before = {name: mask.clone() for name, mask in masks.items()}
        counts = cut(masks, scores, way, ratio, allocate)
        assert masks["head.weight"].all()
        for name, layer in (("conv", model.conv), ("up", model.up), ("grouped", model.grouped)):
            name += ".weight"
            rows = by_output(layer, masks[name])
            assert (rows.any(1) == rows.all(1)).all()
            assert rows.any()
            assert int((before[name] & ~masks[name]).sum()) == counts[name]
            # none that stays scores lower than one that goes
            means = by_output(layer, scores[name]).mean(1)
            gone = by_output(layer, before[name]).any(1) & ~rows.any(1)
            if gone.any():
                assert means[gone].max() <= means[rows.any(1)].min() + 1e-6


def test_the_rows_of_a_transposed_convolution_are_its_outputs():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    for channel in range(6):
        rows = torch.ones(6, 2 * 9)
        rows[channel] = 0
        with torch.no_grad():
            layer.weight.copy_(from_output(layer, rows, layer.weight.shape))
        heights = layer(torch.ones(1, 4, 5, 5)).abs().sum((0, 2, 3))
        assert (heights == 0).tolist() == [other == channel for other in range(6)]
        assert by_output(layer, layer.weight.detach()).equal(rows)


def test_kernels_go_whole():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 4))
    masks = Masks(model)
    way = granularity.kernel(model)
    assert way.left_out == ()
    scores = random_scores(masks)
    counts = cut(masks, scores, way, 0.4)
    # 54 of 135 go, which are 6 kernels; 8 of the 20 weights of the linear layer
    assert counts == {"0.weight": 54, "2.weight": 8}
    kernels = scores["0.weight"].mean((2, 3)).flatten()
    gone = (~masks["0.weight"]).flatten(0, 1).flatten(1)
    assert gone.all(1).nonzero().flatten().tolist() == sorted(kernels.argsort()[:6].tolist())
    assert int(gone.sum()) == 54


def test_the_mean_is_of_the_living_and_counts_are_of_whole_units():
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    masks = Masks(model)
    masks.cut_({"0.weight": torch.tensor([[1, 1], [0, 1], [0, 0], [0, 0]]).bool()})
    way = granularity.filter(model)
    scores = {"0.weight": torch.tensor([[0.0, 0.0], [4.0, 0.0], [3.0, 4.0], [1.0, 1.0]])}
    grouped = way.group(scores, masks)
    assert grouped["0.weight"].tolist() == [[0.0, 0.0], [4.0, 4.0], [3.5, 3.5], [1.0, 1.0]]
    # living: 1.0 with two weights, 3.5 with two, 4.0 with one, which is the last
    for count, whole in ((0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4)):
        assert way.whole(grouped, masks, {"0.weight": count}) == {"0.weight": whole}


def test_nearest_skips_what_is_gone():
    scores, sizes = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([5, 3, 4, 0])
    assert [nearest(scores, sizes, count) for count in (0, 1, 2, 5, 6, 12)] == [0, 0, 3, 3, 7, 7]
    assert nearest(scores, torch.zeros(4, dtype=torch.int64), 3) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distinct_keeps_the_order(dtype):
    scores = torch.tensor([1.0, -2.0, 1.0, 0.0, -0.0, -2.0, 1.0, 5.0, -2.0], dtype=dtype)
    found = distinct(scores)
    assert found.argsort().tolist() == scores.argsort(stable=True).tolist()
    assert len(found.unique()) == len(scores)
    assert torch.allclose(found, scores)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2)])
def test_n_of_every_m_stay(n, m):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.ConvTranspose2d(4, 4, 2), nn.Linear(8, 5)
    )
    masks = Masks(model)
    way = granularity.n_m(model, None, n, m)
    assert way.left_out == ("0.weight",)
    scores = random_scores(masks)
    early = torch.rand(masks["3.weight"].shape) < 0.3
    masks.cut_({"3.weight": early})
    counts = cut(masks, scores, way, 0.123)
    assert set(counts) == {"1.weight", "2.weight", "3.weight"}
    assert masks["0.weight"].all()
    for name, axis in (("1.weight", 1), ("2.weight", 0), ("3.weight", 1)):
        alive = masks[name].movedim(axis, -1).reshape(-1, m)
        values = scores[name].movedim(axis, -1).reshape(-1, m)
        dead = early.reshape(-1, m) if name == "3.weight" else torch.zeros_like(alive)
        for living, score, gone in zip(alive, values, dead, strict=True):
            ranked = [i for i in score.argsort(descending=True).tolist() if not gone[i]]
            assert living.nonzero().flatten().tolist() == sorted(ranked[:n])
    assert sum(cut(masks, random_scores(masks, 1), way, 0.5).values()) == 0  # it holds already


def test_n_m_refuses_what_has_no_rank():
    model = nn.Linear(4, 1)
    scores = {"weight": torch.tensor([[1.0, float("nan"), 2.0, 3.0]])}
    with pytest.raises(ValueError, match="NaN"):
        granularity.n_m(model).group(scores, Masks(model))


def test_weights_are_as_they_were():
    model = nn.Linear(4, 3)
    masks = Masks(model)
    way, scores = granularity.weight(model), random_scores(masks)
    assert way.left_out == ()
    assert way.group(scores, masks)["weight"].equal(scores["weight"])
    assert way.whole(scores, masks, {"weight": 5}) == {"weight": 5}


def test_filters_of_recurrent_and_attention_layers_are_left_out():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "recurrent": nn.LSTM(8, 4),
            "linear": nn.Linear(4, 4),
            "last": nn.Linear(4, 4),
        }
    )
    assert set(granularity.filter(model).left_out) == set(Masks(model)) - {"linear.weight"}


def test_the_answers():
    class Branches(nn.Module):
        def __init__(self, traceable):
            super().__init__()
            self.traceable = traceable
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)
            self.before = nn.Linear(4, 4)

        def forward(self, x):
            if not self.traceable and x.sum() > 0:
                x = -x
            x = self.before(x).relu()
            return self.one(x).view(x.shape[0], 4), {"two": self.two(x).relu()}

    assert output_tensors(Branches(True)) == {"one.weight", "two.weight"}
    assert traced(Branches(False)) is None
    assert output_tensors(Branches(False)) == {"before.weight"}
    assert output_tensors(resnet20()) == {"14.weight"}
    assert output_tensors(simple_cnn()) == {"fc2.weight"}
    assert output_tensors(nn.Linear(2, 2)) == {"weight"}


def test_what_is_attached_to_a_layer():
    model = Varied()
    assert attached(model, "conv.weight") == ["conv.bias", "norm.weight", "norm.bias"]
    assert attached(model, "up.weight") == ["up.bias", "up_norm.weight", "up_norm.bias"]
    assert attached(model, "grouped.weight") == []
    assert attached(model, "head.weight") == ["head.bias"]
    block = resnet20()
    assert attached(block, "3.conv1.weight") == ["3.bn1.weight", "3.bn1.bias"]
    assert attached(simple_cnn(), "fc1.weight") == ["fc1.bias"]


def test_a_norm_of_the_sum_belongs_to_neither_and_order_counts_without_a_trace():
    class Sum(nn.Module):
        def __init__(self, traceable):
            super().__init__()
            self.traceable = traceable
            self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.norm = nn.BatchNorm1d(4)
            self.shared = nn.BatchNorm1d(4)

        def forward(self, x):
            if not self.traceable and x.sum() > 0:
                return x
            return self.norm(self.one(x) + self.two(x))

    assert attached(Sum(True), "one.weight") == attached(Sum(True), "two.weight") == []
    assert attached(Sum(False), "one.weight") == []
    assert attached(Sum(False), "two.weight") == ["norm.weight", "norm.bias"]

    class Shared(Sum):
        def forward(self, x):
            return self.shared(self.one(x)) + self.shared(self.two(x))

    assert attached(Shared(True), "one.weight") == []


@pytest.mark.parametrize("name", ["conv", "up"])
def test_attached_parameters_go_with_the_channel(name):
    torch.manual_seed(0)
    model = Varied()
    masks = Masks(model)
    others = attached(model, f"{name}.weight")
    masks.attach(model, f"{name}.weight", others)
    prunable = masks.prunable
    scores = random_scores(masks)
    counts = cut(masks, scores, granularity.filter(model), 0.5)
    alive = by_output(getattr(model, name), masks[f"{name}.weight"]).any(1)
    gone = int((~alive).sum())
    assert gone
    assert masks.attached_cut == 3 * gone
    assert (masks.prunable, masks.surviving) == (prunable, prunable - sum(counts.values()))
    assert set(masks) == set(masks.weights()) == {
        "conv.weight", "up.weight", "grouped.weight", "head.weight"
    }  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1)
    for _ in range(2):
        model(torch.randn(4, 4, 6, 6)).square().sum().backward()
        masks.zero_cut_gradients_()
        for other in others:
            assert (model.get_parameter(other).grad[~alive] == 0).all()
        optimizer.step()
        for other in others:
            parameter = model.get_parameter(other)
            parameter.data[~alive] = 7
            optimizer.state[parameter]["exp_avg"].fill_(7)
        masks.zero_cut_()
        masks.zero_moments_(optimizer)
        for other in others:
            parameter = model.get_parameter(other)
            assert (parameter[~alive] == 0).all()
            assert (parameter[alive] != 0).any()
            assert (optimizer.state[parameter]["exp_avg"] == 7).equal(alive)
    layer, norm = {"conv": (model.conv, model.norm), "up": (model.up, model.up_norm)}[name]
    images = torch.randn(2, layer.in_channels, 6, 6)
    assert (norm(layer(images))[:, ~alive] == 0).all()


def test_a_channel_with_one_living_weight_keeps_what_is_attached_and_later_attachment_counts():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    masks = Masks(model)
    with torch.no_grad():
        model[1].bias.fill_(2)
    masks.cut_({"0.weight": torch.tensor([[1, 1], [1, 0], [0, 0]]).bool()})
    assert masks.attached_cut == 0
    masks.attach(model, "0.weight", ["1.bias"])
    assert masks.attached_cut == 1
    assert model[1].bias.tolist() == [0.0, 2.0, 2.0]
    model.double()
    with torch.no_grad():
        model[1].bias.fill_(3)
    masks.zero_cut_()
    assert model[1].bias.tolist() == [0.0, 3.0, 3.0]


def test_what_cannot_be_attached_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    masks = Masks(model)
    for wrong in ("1.bias", "1.weight", "nothing"):
        with pytest.raises(ValueError, match=f"{wrong} has no element for each of 3"):
            masks.attach(model, "0.weight", [wrong])
    both = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    masks = Masks(both)
    masks.attach(both, "0.weight", ["0.bias"])
    masks.attach(both, "0.weight", ["0.bias"])
    with pytest.raises(ValueError, match="masked already"):
        masks.attach(both, "1.weight", ["0.bias"])


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("magnitude", "global", "n_m"), "layerwise"),
        (("similarity", "layerwise", "weight"), "filters"),
        (("similarity", "layerwise", "kernel"), "filters"),
        (("similarity", "layerwise", "n_m"), "filters"),
        (("magnitude", "layerwise", "n_m", 4, 4), "0 < n < m"),
        (("magnitude", "layerwise", "n_m", 0, 4), "0 < n < m"),
    ],
)
def test_combinations_that_mean_nothing(names, word):
    problem = str(refused(*names))
    assert word in problem
    assert "\n" not in problem


def test_combinations_that_mean_something():
    for names in (
        ("magnitude", "layerwise", "n_m"),
        ("similarity", "lamp", "filter"),
        ("magnitude", "global", "weight", 9, 3),
        ("taylor", "erk", "kernel"),
    ):
        assert refused(*names) is None
