import pytest
import torch
from torch.nn import functional as F

from refine import models
from refine.masks import Masks
from refine.models.simple_cnn import halved


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("simple_cnn", 582_346),
        ("vgg16", 14_728_266),
        ("resnet18", 11_173_962),
        ("resnet20", 272_474),
        ("logistic", 30_730),
    ],
)
def test_sizes(name, parameters):
    model = getattr(models, name)(10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("size", [(32, 32), (7, 10), (5, 4)])
def test_pooling_without_gradient_is_max_pool2d(size):
    x = torch.randn(3, 4, *size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert halved(x).equal(F.max_pool2d(x, 2))
    assert halved(x.requires_grad_()).equal(F.max_pool2d(x, 2))


def test_simple_cnn_is_the_usual_order_of_layers():
    model = models.simple_cnn(7, (3, 12, 20)).eval()
    x = torch.randn(2, 3, 12, 20)
    usual = x
    for number in (1, 2, 3):
        convolution, norm = getattr(model, f"conv{number}"), getattr(model, f"bn{number}")
        usual = F.relu(norm(convolution(usual)))
        usual = F.max_pool2d(usual, 2) if number < 3 else usual
    usual = usual.permute(0, 2, 3, 1).flatten(1)  # as it lies in memory, channels last
    usual = model.fc2(F.relu(model.fc1(usual)))
    assert torch.allclose(model(x), usual, atol=1e-6)


def test_of_vgg16_the_published_number_can_be_cut():
    assert Masks(models.vgg16()).prunable == 14_715_584
