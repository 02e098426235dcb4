"""MACs against counts by hand, and a count leaves no trace."""

import pytest
import torch
from torch import nn

import refine.models as models
from refine.evaluation.cost import bytes_of, example, macs, macs_by_layer, nonzero, parameters

CIFAR = (3, 32, 32)


def test_simple_cnn_by_hand():
    model = models.simple_cnn(10, CIFAR)
    by_hand = {
        "conv1": 32 * 32 * 32 * 3 * 9,
        "conv2": 16 * 16 * 64 * 32 * 9,
        "conv3": 8 * 8 * 64 * 64 * 9,
        "fc1": 64 * 8 * 8 * 128,
        "fc2": 128 * 10,
    }
    assert macs_by_layer(model, CIFAR) == by_hand
    assert macs(model, CIFAR) == sum(by_hand.values()) == 8_488_192
    assert parameters(model) == 582_346


def test_resnet20_by_hand():
    stem, head = 32 * 32 * 16 * 3 * 9, 64 * 10
    first = 6 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * (16 + 5 * 32) * 9
    third = 8 * 8 * 64 * (32 + 5 * 64) * 9
    shortcuts = 16 * 16 * 32 * 16 + 8 * 8 * 64 * 32  # 1x1 convolutions
    assert macs(models.resnet20(), CIFAR) == stem + first + second + third + head + shortcuts


def test_grouped_convolutions_count_their_own_inputs_only():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 4, 1))
    assert macs_by_layer(model, (8, 6, 6)) == {"0": 36 * 8 * 9, "1": 36 * 4 * 8}


def test_a_layer_that_is_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert macs(Twice(), (5,)) == 50
    assert macs_by_layer(Twice(), (5,)) == {"layer": 50}
    assert macs_by_layer(nn.Linear(5, 3), (5,)) == {"": 15}


def test_attention_counts_its_matrix_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    projections, products = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8
    assert macs(Attention(), (5, 8)) == projections + products
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["vit", "mobilenet_v2", "vgg16"])
def test_layers_add_up(name):
    model = getattr(models, name)()
    layers = sum(macs_by_layer(model, CIFAR).values())
    assert 0 < layers <= macs(model, CIFAR)
    assert name == "vit" or layers == macs(model, CIFAR)


def test_masked_zeros_count_and_are_told():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[0] = 0
        model.bias[:] = 1
    assert (macs(model, (4,)), parameters(model), nonzero(model)) == (12, 15, 11)


def test_bytes_count_shared_tensors_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert bytes_of(model) == 4 * 16
    norm = nn.BatchNorm2d(3)  # two of 3 floats, two buffers of 3, one int64
    assert bytes_of(norm) == 4 * 12 + 8
    assert bytes_of(norm.to(torch.bfloat16)) == 2 * 12 + 8


def test_it_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.norm(self.layer(x + torch.randn_like(x)))

    model = Noisy().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert macs(model, (4,)) == 16
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert (model.training, model.layer.training, model.norm.training) == (True, True, False)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_example_is_as_the_network_needs_it():
    images = example(nn.Linear(2, 2).to(torch.bfloat16), (3, 4), batch=5)
    assert images.shape == (5, 3, 4)
    assert images.dtype == torch.bfloat16
