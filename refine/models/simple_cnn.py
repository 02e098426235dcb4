"""What is the network of the paper?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SimpleCNN(nn.Module):
    """Three 3x3 convolutions with batch norm and two linear layers.

    582,346 parameters for 3x32x32 images and 10 classes, 581,728 of them in the five weight
    tensors; 8.49 million multiply-accumulates an image.
    """

    def __init__(self, num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)):
        super().__init__()
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        # Pooling before the ReLU gives the same numbers, as both are monotone, and the ReLU has a
        # quarter of the work. Channels come last in memory; flattened in that order, nothing is
        # moved, neither in this pass nor in the gradient's.
        x = F.relu(halved(self.bn1(self.conv1(x))))
        x = F.relu(halved(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)).permute(0, 2, 3, 1).flatten(1))
        x = F.relu(self.fc1(x))
        return self.fc2(x)


def halved(x: Tensor) -> Tensor:
    """2x2 max pooling of (N, C, H, W); odd rows and columns at the end are left out.

    ``max_pool2d`` also finds where the maxima are, which the gradient needs. Without a gradient,
    the maximum of strided views takes half the time on a CPU.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return F.max_pool2d(x, 2)
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    x = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


def simple_cnn(num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> nn.Module:
    """The paper's network for any number of classes and any image of at least 4x4 pixels."""
    if min(image_shape[1:]) < 4:
        raise ValueError("images must be at least 4x4 pixels; see dataset.image_size")
    return SimpleCNN(num_classes, image_shape)
