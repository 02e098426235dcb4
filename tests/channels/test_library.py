"""Networks that torch-pruning fails on: layers keep their channels by name, others lose some."""

import copy
import logging
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine import RuntimeRefinement
from refine.channels import criteria, progress
from refine.channels.plan import Structured
from refine.config import choices
from refine.evaluation.cost import macs
from refine.replay import Replay

pytest.importorskip("torch_pruning")


def refined(model, example, **given):
    pruner = Structured(downscale_factor=1.0, example=example, unit="macs", **given)
    return RuntimeRefinement(model, pruner, replay=Replay(steps=0))


class Split(nn.Module):
    """Half of the channels pass by a few layers, and everything made on the way is joined. What is
    made is added to what it is made of, or ``shortcut`` is False."""

    def __init__(self, shortcut=True):
        super().__init__()
        self.shortcut = shortcut
        self.first, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1)
        self.c, self.d = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.b, self.head = nn.Conv2d(24, 12, 1), nn.Linear(12, 10)

    def forward(self, x):
        parts = list(F.relu(self.a(F.relu(self.first(x)))).chunk(2, 1))
        made = F.relu(self.d(F.relu(self.c(parts[-1]))))
        parts.append(parts[-1] + made if self.shortcut else made)
        return self.head(F.relu(self.b(torch.cat(parts, 1))).mean((2, 3)))


class Shuffled(nn.Module):
    """Halves whose channels are mixed by a change of shape."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.c, self.head = nn.Conv2d(8, 12, 3), nn.Linear(12, 10)

    def forward(self, x):
        one, other = F.relu(self.first(x)).chunk(2, 1)
        other = F.relu(self.b(F.relu(self.a(torch.cat([other, one], 1)[:, :8]))))
        x = torch.cat([one, other], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """The columns of a picture are read one after the other."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.memory, self.head = kind(12, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x)))).mean(2).transpose(1, 2)
        return self.head(self.memory(x)[0][:, -1])


class Bilinear(nn.Module):
    """Features are products of two layers' channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.a, self.b = nn.Conv2d(8, 12, 3), nn.Conv2d(8, 6, 3)
        self.c, self.head = nn.Linear(12 * 6, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        pairs = torch.einsum("bchw,bdhw->bcd", self.a(x), self.b(x))
        return self.head(F.relu(self.c(pairs.flatten(1))))


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of pictures."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Normed(nn.Module):
    """A block of ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3), LayerNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.last, self.head = LayerNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(self.stem(x))
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.b(F.gelu(self.a(y))).permute(0, 3, 1, 2)
        return self.head(self.last(x.mean((2, 3), keepdim=True)).flatten(1))


NETWORKS = {
    "shuffle": (Shuffled, {"a", "c"}, {"b"}),
    "gru": (lambda: Recurrent(nn.GRU), {"a"}, {"b"}),
    "lstm": (lambda: Recurrent(nn.LSTM).double(), {"a"}, {"b"}),
    "einsum": (Bilinear, {"first", "c"}, {"a", "b"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_library_fails_on_is_refused_by_name(name):
    make, free, kept = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randn(2, 3, 12, 12, dtype=next(model.parameters()).dtype)
    refinement = refined(model, x)
    assert set(refinement.method.widths) == free
    for layer in kept:
        assert re.search("cannot be followed|fails", refinement.method.kept[layer])
    report = refinement.refinement_cycle(None, 0.4)
    assert model(x).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == refinement.active_parameters
    assert report.macs == macs(model, (3, 12, 12))


@pytest.mark.parametrize(
    "criterion", [n for n in choices.CRITERIA if n not in ("none", "bn_scale")]
)
@pytest.mark.parametrize("shortcut", [True, False])
def test_pieces_of_a_chunk_lose_the_same_channels(shortcut, criterion):
    torch.manual_seed(0)
    model, x = Split(shortcut), torch.randn(2, 3, 12, 12)
    refinement = refined(
        model, x, criterion=getattr(criteria, criterion), protected=("first", "b", "c"), steps=10
    )
    assert refinement.method.widths == ({"d": 8} if shortcut else {"a": 8, "d": 8})
    dense = copy.deepcopy(model)
    report = refinement.refinement_cycle([(x, torch.arange(2))], 0.2)
    assert report.macs == macs(model, (3, 12, 12))
    for name in ("a", "d"):
        layer, smaller = dense.get_submodule(name), model.get_submodule(name)
        gone = [i for i, row in enumerate(layer.weight) if not any(map(row.equal, smaller.weight))]
        assert gone
        if name == "a":
            half = len(gone) // 2
            assert gone[half:] == [8 + place for place in gone[:half]]
        with torch.no_grad():
            layer.weight[gone] = layer.bias[gone] = 0.0
    assert torch.allclose(model(x), dense(x), atol=1e-6)


@pytest.mark.parametrize("size", [10, 13])  # at 10, pictures are as wide as they have channels
def test_a_layer_norm_may_work_along_another_axis(size):
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(2, 3, size, size)
    refinement = refined(model, x)
    assert len(refinement.method.widths) == 2
    assert refinement.method.widths["a"] == 16
    report = refinement.refinement_cycle(None, 0.4)
    assert model(x).shape == (2, 10)
    assert report.macs == macs(model, (3, size, size)) < 0.6 * refinement.method.dense_macs
    assert model.first.normalized_shape == (len(model.scale),) == (model.stem.out_channels,)


def test_a_long_search_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(logging.getLogger("refine"), "propagate", True)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, logger="refine"):
        refined(Normed(), torch.randn(2, 3, 10, 10)).refinement_cycle(None, 0.4)
    assert "finding out which channels can be taken out: 0% after 0 s" in caplog.text
    assert "choosing channels: 0% after 0 s" in caplog.text
