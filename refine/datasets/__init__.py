"""Which data sets can be learned by name?

Each is a function ``(root, image_size) -> RawData``: the directory of the data and the side, in
pixels, to bring the images to (None: as they are).
"""

from refine.datasets.digits import digits
from refine.datasets.downloads import cifar10, cifar100, fashion_mnist
from refine.datasets.image_folder import image_folder

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "image_folder"]
