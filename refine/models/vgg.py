"""How are VGG networks made for small images?"""

from torch import nn


def vgg16(num_classes: int = 10) -> nn.Module:
    """VGG16 with batch norm and a single linear layer: 14,728,266 parameters at 10 classes."""
    return _vgg((2, 2, 3, 3, 3), num_classes)


def vgg19(num_classes: int = 10) -> nn.Module:
    """VGG19 with batch norm and a single linear layer: 20,040,522 parameters at 10 classes."""
    return _vgg((2, 2, 4, 4, 4), num_classes)


def _vgg(depths: tuple[int, ...], num_classes: int) -> nn.Module:
    """The network of Simonyan & Zisserman 2015 with that many convolutions in each stage."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    # On 32x32 images the last pooling is the usual 2x2 one; adaptive, it takes any size.
    layers[-1] = nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, num_classes))
