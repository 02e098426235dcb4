"""Which networks can be trained by name?

Each is a function ``(num_classes, image_shape) -> nn.Module`` with ``image_shape`` as (channels,
height, width). A network that does not depend on the image's shape has no parameter for it.
"""

from refine.models.logistic import logistic
from refine.models.mobilenet import mobilenet_v2
from refine.models.resnet import resnet18, resnet20, resnet56
from refine.models.simple_cnn import simple_cnn
from refine.models.vgg import vgg16, vgg19
from refine.models.vit import vit

__all__ = [
    "logistic",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet56",
    "simple_cnn",
    "vgg16",
    "vgg19",
    "vit",
]
