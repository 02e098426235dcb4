"""Dead channels and folded batch norms: the network is smaller, with the same outputs."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import refine.models as models
from refine.evaluation.cost import parameters
from refine.export.dead_channels import without_dead_channels
from refine.export.equality import ReferenceOutputs
from refine.export.folding import folded

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(name):
    """A network whose batch norms have seen images, and have factors and offsets of their own."""
    torch.manual_seed(0)
    model = getattr(models, name)()
    for _ in range(3):
        model(torch.randn(16, 3, 32, 32))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    return model.eval()


@torch.no_grad()
def silence(model, layer, norm, channels):
    """Filters with their bias and batch norm, as pruner.granularity=filter cuts them."""
    for path in filter(None, (layer, norm)):
        for tensor in model.get_submodule(path).parameters():
            tensor[list(channels)] = 0


@torch.no_grad()
def sparsify(model, share):
    """Zeros where |w| is lowest over all convolutions and linear layers."""
    weights = [w for w in model.parameters() if w.dim() > 1]
    together = torch.cat([w.abs().flatten() for w in weights])
    least = together.kthvalue(int(share * len(together))).values
    for weight in weights:
        weight.mul_(weight.abs() > least)


@torch.no_grad()
def difference(model, other, images=IMAGES):
    return float((model(images) - other(images)).abs().max())


def test_simple_cnn_masked_by_filters():
    model = trained("simple_cnn")
    silence(model, "conv1", "bn1", range(8))
    silence(model, "conv2", "bn2", range(0, 64, 2))
    silence(model, "conv3", "bn3", range(10, 20))
    silence(model, "fc1", None, range(64))
    network, removed, note = without_dead_channels(model, IMAGES[:2])
    assert removed == {"conv1": 8, "conv2": 32, "conv3": 10, "fc1": 64}
    assert (network.conv3.weight.shape, note) == ((54, 32, 3, 3), "")
    assert network.fc1.in_features == 54 * 64
    assert difference(model, network) < 1e-5
    assert parameters(model) == 582_346  # and the one that was given is as it was


def test_resnet20_masked_by_filters():
    model = trained("resnet20")
    silence(model, "3.conv1", "3.bn1", range(4))
    silence(model, "6.conv1", "6.bn1", range(16))
    # Of the second stage's stream: a channel is gone only if all that add to it are silent.
    for layer, norm in (
        ("6.conv2", "6.bn2"), ("6.shortcut.0", "6.shortcut.1"),
        ("7.conv2", "7.bn2"), ("8.conv2", "8.bn2"),
    ):  # fmt: skip
        silence(model, layer, norm, range(3, 12))
    silence(model, "9.conv2", "9.bn2", range(20))
    network, removed, _ = without_dead_channels(model, IMAGES[:2])
    stream = {root: n for root, n in removed.items() if root not in ("3.conv1", "6.conv1")}
    assert (removed["3.conv1"], removed["6.conv1"]) == (4, 16)
    assert list(stream.values()) == [9]
    assert network[6].conv2.weight.shape == (23, 16, 3, 3)
    assert difference(model, network) < 1e-5


@pytest.mark.parametrize("name", ["simple_cnn", "resnet20", "mobilenet_v2", "vit"])
def test_unstructured_at_98_percent(name):
    model = trained(name)
    sparsify(model, 0.98)
    network, removed, note = without_dead_channels(model, IMAGES[:2])
    assert note == ""
    lost = parameters(model) - parameters(network)
    assert lost > 0 if removed else lost == 0
    if name in ("simple_cnn", "mobilenet_v2"):
        assert removed
    scale = float(model(IMAGES).detach().abs().max())
    assert difference(model, network) < 1e-5 * max(scale, 1)


def test_a_network_without_zeros_stays_as_it_is():
    model = trained("resnet20")
    network, removed, _ = without_dead_channels(model, IMAGES[:2])
    assert removed == {}
    assert difference(model, network) == 0


def test_every_group_keeps_a_channel():
    model = trained("simple_cnn")
    silence(model, "conv2", "bn2", range(64))
    network, removed, _ = without_dead_channels(model, IMAGES[:2])
    assert network.conv2.out_channels == 1
    assert removed["conv2"] == 63
    assert difference(model, network) < 1e-5


def test_what_nobody_reads_goes_and_so_does_what_only_that_read():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[4].weight[:, :5] = 0  # of the second layer's 8 only 3 are read
        model[2].weight[5:, :2] = 0  # and these 3 do not read the first layer's first 2
    inputs = torch.randn(4, 6)
    network, removed, _ = without_dead_channels(model, inputs)
    assert removed == {"2": 5, "0": 2}
    assert difference(model, network, inputs) < 1e-6


class Shifted(nn.Module):
    """Something other than a ReLU follows: a channel of zeros is none of zeros afterwards."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.third = nn.Linear(4, 3)

    def forward(self, x):
        return self.third(F.relu(self.second(torch.cos(self.first(x)))))


def test_channels_that_only_seem_dead_stay():
    torch.manual_seed(0)
    model = Shifted().eval()
    silence(model, "first", None, [0, 1])
    silence(model, "second", None, [2])
    inputs = torch.randn(4, 6)
    network, removed, _ = without_dead_channels(model, inputs)
    assert removed == {"second": 1}  # one group's refusal does not keep another's
    assert difference(model, network, inputs) < 1e-6


def test_a_constant_below_zero_is_dead_only_before_a_relu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    other = nn.Sequential(model[0], nn.Tanh(), model[2]).eval()
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = torch.tensor([-0.5, 0.5])
    inputs = torch.randn(4, 6)
    assert without_dead_channels(model, inputs).removed == {"0": 1}
    assert without_dead_channels(other, inputs).removed == {}


def test_without_the_library_the_network_stays_as_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model = trained("simple_cnn")
    silence(model, "conv1", "bn1", range(8))
    network, removed, note = without_dead_channels(model, IMAGES[:2])
    assert removed == {}
    assert "pip install 'runtime-refinement[structured]'" in note
    assert difference(model, network) == 0


def test_a_network_that_insists_on_single_precision_is_run_in_it():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return F.linear(x.float(), self.layer.weight)

    model = Single()
    reference = ReferenceOutputs(model, torch.randn(2, 4))
    assert reference.exact == 1e-5
    assert reference.change(model) == 0
    assert reference.change(nn.Linear(3, 2)) == float("inf")


@pytest.mark.parametrize(
    ("name", "norms"),
    [("simple_cnn", 3), ("resnet20", 21), ("vgg16", 13), ("mobilenet_v2", 52), ("vit", 0)],
)
def test_folding(name, norms):
    model = trained(name)
    network, gone, note = folded(model, IMAGES[:2])
    assert (len(gone), note) == (norms, "")
    left = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(left) == 0
    scale = float(model(IMAGES).detach().abs().max())
    assert difference(model, network) < 1e-4 * max(scale, 1)


def test_folding_after_removal():
    model = trained("resnet20")
    silence(model, "3.conv1", "3.bn1", range(4))
    network = folded(without_dead_channels(model, IMAGES[:2]).network, IMAGES[:2]).network
    assert network[3].conv1.bias.shape == (12,)
    assert difference(model, network) < 1e-4


class Shared(nn.Module):
    """Norms that no single layer feeds, or whose layer feeds something else."""

    def __init__(self):
        super().__init__()
        self.twice, self.read, self.alone = (nn.Linear(6, 6) for _ in range(3))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm1d(6) for _ in range(4))

    def forward(self, x):
        x = self.norm1(self.twice(x)) + self.norm2(self.twice(x + 1))
        y = self.read(x)
        x = self.norm3(y) + y
        return self.norm4(self.alone(x))


def test_a_norm_is_folded_only_into_a_layer_of_its_own():
    torch.manual_seed(0)
    model = Shared()
    for _ in range(3):
        model(torch.randn(16, 6))
    model.eval()
    network, gone, _ = folded(model, torch.randn(4, 6))
    assert gone == {"norm4": "alone"}
    assert difference(model, network, torch.randn(4, 6)) < 1e-5


def test_linear_norms_over_another_axis_are_not_folded():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.norm(self.layer(x))  # (N, tokens, features): the norm is over tokens

    torch.manual_seed(0)
    model = Tokens()
    nn.init.normal_(model.norm.bias)
    model(torch.randn(16, 5, 5) + torch.arange(5.0)[:, None])
    assert folded(model.eval(), torch.randn(2, 5, 5)).norms == {}
