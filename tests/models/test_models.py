import pytest
import torch
from torch.nn import functional as F

from refine import models
from refine.models.simple_cnn import halved
from refine.models.vit import Attention
from refine.sparsity.masks import Masks


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("simple_cnn", 582_346),
        ("vgg16", 14_728_266),
        ("vgg19", 20_040_522),
        ("resnet18", 11_173_962),
        ("resnet20", 272_474),
        ("resnet56", 855_770),
        ("mobilenet_v2", 2_236_682),
        ("vit", 810_890),
        ("logistic", 30_730),
    ],
)
def test_sizes(name, parameters):
    model = getattr(models, name)(10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vgg19", (16, 19)),
        ("resnet56", (3, 5)),
        ("mobilenet_v2", (3, 5)),
        ("vit", (4, 12)),
    ],
)
def test_small_and_odd_images(name, size):
    shape = {"image_shape": (3, *size)} if name == "vit" else {}
    assert getattr(models, name)(7, **shape)(torch.zeros(2, 3, *size)).shape == (2, 7)


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


def test_mobilenet_v2_ends_at_4x4():
    assert models.mobilenet_v2().features(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 4, 4)


def test_vit_takes_whole_patches_of_any_number_of_channels():
    assert models.vit(7, (1, 8, 20))(torch.zeros(2, 1, 8, 20)).shape == (2, 7)
    for shape in ((3, 8, 10), (3, 3, 8), (3, 0, 8)):
        with pytest.raises(ValueError, match=r"dataset\.image_size"):
            models.vit(7, shape)


def test_vit_knows_where_its_patches_are():
    torch.manual_seed(0)
    model = models.vit(10, (3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    turned = x.roll(4, dims=3)  # the same patches elsewhere
    assert not torch.allclose(model(x), model(turned), atol=1e-4)
    torch.nn.init.zeros_(model.position)
    assert torch.allclose(model(x), model(turned), atol=1e-5)


def test_vits_attention_is_the_usual_one_at_any_width():
    attention = Attention(embedding=6, heads=2, head_width=5)
    x = torch.randn(3, 4, 6)
    parts = []
    for head in range(2):
        query, key, value = (
            layer(x)[..., 5 * head : 5 * head + 5]
            for layer in (attention.query, attention.key, attention.value)
        )
        parts.append((query @ key.mT / 5**0.5).softmax(-1) @ value)
    assert torch.allclose(attention(x), attention.out(torch.cat(parts, 2)), atol=1e-6)
