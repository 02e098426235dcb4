"""Which data sets can be learned by name?

Each is a function ``(root, image_size) -> RawData``. ``root`` is the directory of the data, and
``image_size`` the side in pixels that the images are resized to (None: they stay as they are).
"""

from refine.datasets.digits import digits
from refine.datasets.downloads import cifar10, cifar100, fashion_mnist
from refine.datasets.image_folder import image_folder

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "image_folder"]
