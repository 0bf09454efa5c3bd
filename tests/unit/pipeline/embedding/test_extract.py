import numpy as np
import pytest
import torch
from torch import nn

from pipeline.embedding.extract import Settings, forward, move
from pipeline.images.preprocessing import IMAGENET
from pipeline.models.backbone import Backbone

SETTINGS = Settings(device="cpu", precision="fp32", batch_size=4, threads=1)


def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    return Backbone(
        name=name,
        module=nn.Sequential(*layers).eval(),
        dim=5,
        preprocessing=IMAGENET,
        architecture=name,
        weights_sha256="0" * 64,
        feature="planted",
    )


@pytest.mark.parametrize(("name", "last"), [("torchvision/planted", True), ("package.module:planted", False)])
def test_channels_go_last_but_in_a_network_of_a_persons_own(name: str, last: bool) -> None:
    moved, plain = backbone(name), backbone(name)
    move(moved, "cpu")
    assert moved.module[0].weight.is_contiguous(memory_format=torch.channels_last) == last
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    # sums of 27 and 32 products in float32, in another order
    np.testing.assert_allclose(forward(moved, images, SETTINGS), forward(plain, images, SETTINGS), atol=1e-5)
