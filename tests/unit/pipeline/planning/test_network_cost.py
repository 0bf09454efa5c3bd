"""Costs of networks on fake tensors: operations by hand, memory as if they ran."""

import pytest
import torch
from torch import nn

from pipeline.models.students import build_student
from pipeline.planning.network_cost import LiveTensors, forward_cost, parameter_bytes, step_cost


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)


def test_operations_and_memory_of_a_linear_layer_by_hand() -> None:
    layer = nn.Linear(30, 20, bias=False)
    forward = forward_cost(nn.Sequential(nn.Flatten(), layer), (8, 3, 1, 10), bf16=False)
    assert forward.flops == 2 * 8 * 30 * 20
    assert forward.bytes == 4 * (30 * 20 + 8 * 30 + 8 * 20)
    step = step_cost(nn.Sequential(nn.Flatten(), layer), (8, 3, 1, 10), bf16=False, optimizer=sgd)
    assert step.flops == 2 * forward.flops  # no gradient of the images is needed
    assert parameter_bytes(layer) == 4 * 30 * 20


@pytest.mark.parametrize("bf16", [False, True])
def test_memory_without_running_is_that_of_running(bf16: bool) -> None:
    """The same count over real tensors: what PyTorch allocates inside an operation is seen by neither."""
    shape = (4, 3, 32, 32)
    planned = step_cost(build_student("resnet18", image_size=32, seed=0), shape, bf16=bf16, optimizer=sgd)
    with LiveTensors() as live:
        network = build_student("resnet18", image_size=32, seed=0)
        for parameter in network.parameters():  # were made in a mode of their own
            live.count(parameter)
        optimizer = sgd(network)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                embedding = network(torch.zeros(shape))
            optimizer.zero_grad()
            embedding.float().sum().backward()
            optimizer.step()
    # 5 %: buffers of BatchNorm and workspaces
    assert planned.bytes == pytest.approx(live.peak, rel=0.05)
