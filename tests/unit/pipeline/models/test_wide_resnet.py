import pytest
import torch
import torchvision

from pipeline.models.wide_resnet import WideResNet50


@pytest.mark.parametrize(("width", "millions"), [(1, 24), (2, 94), (4, 375), (5, 586)])
def test_every_layer_of_a_wide_network_is_wider_and_named_as_torchvisions(width: int, millions: int) -> None:
    with torch.device("meta"):
        plain, wide = torchvision.models.resnet50(), WideResNet50(width)
    narrow = {name: t.shape for name, t in plain.state_dict().items() if not name.startswith("fc.")}
    assert wide.state_dict().keys() == narrow.keys()
    for name, tensor in wide.state_dict().items():
        factors = [width, 1 if name == "conv1.weight" else width, 1, 1]  # out, in, and the kernel's sides
        grown = [size * factor for size, factor in zip(narrow[name], factors, strict=False)]
        assert list(tensor.shape) == grown, name
    # SimCLR's table of networks: 24, 94 and 375 million; SwAV's widest has 586 million
    assert round(sum(tensor.numel() for tensor in wide.parameters()) / 1e6) == millions
