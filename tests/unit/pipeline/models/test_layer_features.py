"""Features from inside a network, and the sizes of the usual protocol."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pipeline.errors import PipelineError, WrongUse
from pipeline.models.architectures import open_network
from pipeline.models.layer_features import LayerFeatures, layers_of, path_of, pooled
from tests.support.tiny_student import plain


@pytest.mark.parametrize(
    ("shape", "width"),
    [
        # AlexNet's five maps at 224 px and ResNet-50's four
        ((64, 55, 55), 9216),
        ((192, 27, 27), 9408),
        ((384, 13, 13), 9600),
        ((256, 13, 13), 9216),
        ((256, 56, 56), 9216),
        ((512, 28, 28), 8192),
        ((1024, 14, 14), 9216),
        ((2048, 7, 7), 8192),
        # a map that is smaller than the grid stays as it is, and one of many channels is pooled to a point
        ((512, 1, 2), 1024),
        ((20_000, 3, 3), 20_000),
    ],
)
def test_maps_are_pooled_to_about_nine_thousand_numbers(shape: tuple[int, int, int], width: int) -> None:
    assert pooled(torch.zeros(1, *shape)).shape == (1, width)


def test_pooling_is_the_mean_of_each_cell() -> None:
    maps = torch.arange(2 * 2400 * 4 * 4, dtype=torch.float64).view(2, 2400, 4, 4)
    expected = maps.view(2, 2400, 2, 2, 2, 2).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(pooled(maps), expected)


def test_alexnets_layers_are_its_modules_after_relu_written_out() -> None:
    network = open_network("torchvision/alexnet").module.eval()
    images = torch.randn(2, 3, 67, 67, generator=torch.Generator().manual_seed(0))
    expected, x = {}, images
    names = iter(["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"])
    for block in (network.features, network.avgpool, nn.Flatten(), network.classifier):
        for module in block if isinstance(block, nn.Sequential) else [block]:
            x = module(x)
            if isinstance(module, nn.ReLU):
                expected[next(names)] = pooled(x) if x.ndim == 4 else x.clone()
    assert list(expected) == layers_of(network, "all")
    for name, feature in expected.items():
        torch.testing.assert_close(LayerFeatures(network, path_of(network, name))(images), feature)
    # after ReLU, and not all of it dead
    assert all(feature.min() >= 0 and feature.max() > 0 for feature in expected.values())


def test_a_layer_before_a_relu_that_works_in_place_keeps_its_signs() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5), nn.ReLU(True)
    )
    images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    network(images)
    for path in ("0", "3"):
        assert LayerFeatures(network, path)(images).min() < 0


def test_a_resnet_has_four_stages_and_any_module_can_be_named() -> None:
    network = resnet18()
    assert layers_of(network, "all") == ["layer1", "layer2", "layer3", "layer4"]
    assert layers_of(network, "layer2.0.bn1") == ["layer2.0.bn1"]
    with torch.no_grad():
        assert LayerFeatures(network.eval(), "layer4")(torch.zeros(2, 3, 64, 64)).shape == (2, 512 * 2 * 2)


def test_what_is_no_layer_is_said() -> None:
    with pytest.raises(WrongUse, match=r"has no layer 'layr3', did you mean 'layer3'|layr3.*layer3"):
        path_of(resnet18(), "layr3")
    with pytest.raises(
        WrongUse, match="all works for AlexNet and ResNets only; give one module of this Sequential"
    ):
        layers_of(plain(), "all")
    idle = plain()
    idle.forward = torch.clone
    with pytest.raises(PipelineError, match="the layer 0 is not used in the network's forward pass"):
        LayerFeatures(idle, "0")(torch.zeros(1, 3, 4, 4))


def test_a_layer_that_gives_neither_map_nor_rows_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(2), nn.Flatten())
    with pytest.raises(
        PipelineError, match=r"returns a tensor of shape \(2, 3, 16\); expected a feature map"
    ):
        LayerFeatures(network, "0")(torch.zeros(2, 3, 4, 4))
