"""How is a MobileNet made for small images?"""

from torch import nn


def mobilenet_v2(num_classes: int = 10) -> nn.Module:
    """torchvision's MobileNetV2 (Sandler et al. 2018) with the first two strides at 1, so that
    32x32 images end at 4x4: 2,236,682 parameters at 10 classes."""
    from torchvision.models import mobilenet_v2 as imagenet_mobilenet_v2

    model = imagenet_mobilenet_v2(num_classes=num_classes)
    strided = [layer for layer in model.modules() if getattr(layer, "stride", 1) == (2, 2)]
    for convolution in strided[:2]:
        convolution.stride = (1, 1)
    return model
