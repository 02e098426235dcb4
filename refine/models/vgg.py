"""VGG networks for small images."""

from torch import nn

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool")
VGG16 += (512, 512, 512)


def vgg16(num_classes: int = 10) -> nn.Module:
    """VGG16 with batch norm and a single linear layer: 14,728,266 parameters at 10 classes."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in VGG16:
        if entry == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU()]
            channels = entry
    # On 32x32 images the last pooling is the usual 2x2 one; adaptive, it takes any size.
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)
    )
