"""How are residual networks made for small images?"""

from torch import Tensor, nn
from torch.nn import functional as F


def resnet18(num_classes: int = 10) -> nn.Module:
    """torchvision's ResNet-18 with a stem for 32x32 images: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18 as imagenet_resnet18

    model = imagenet_resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where sizes change (option
    B of He et al. 2016: every channel then comes from a filter and can be pruned)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def resnet20(num_classes: int = 10) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016): 272,474 parameters at 10 classes."""
    return _cifar_resnet(3, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """ResNet-56 for CIFAR (He et al. 2016): 855,770 parameters at 10 classes."""
    return _cifar_resnet(9, num_classes)


def _cifar_resnet(depth: int, num_classes: int) -> nn.Module:
    """Stages of 16, 32 and 64 channels, ``depth`` blocks each."""
    blocks = [Block(16, 16, 1) for _ in range(depth)]
    for channels in (32, 64):
        blocks.append(Block(channels // 2, channels, 2))
        blocks.extend(Block(channels, channels, 1) for _ in range(depth - 1))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
