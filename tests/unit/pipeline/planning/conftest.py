"""Plans of the same networks measure them once: a training step on fake tensors takes seconds."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from pipeline.planning import network_cost
from pipeline.planning.network_cost import Cost, forward_cost, step_cost

MEASURED: dict[tuple[object, ...], Cost] = {}


def forward_once(module: nn.Module, images: tuple[int, ...], *, bf16: bool) -> Cost:
    key = (repr(module), images, bf16)
    if key not in MEASURED:
        MEASURED[key] = forward_cost(module, images, bf16=bf16)
    return MEASURED[key]


def step_once(
    module: nn.Module,
    images: tuple[int, ...],
    *,
    bf16: bool,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> Cost:
    key = (repr(module), images, bf16, repr(optimizer(nn.Linear(1, 1))))
    if key not in MEASURED:
        MEASURED[key] = step_cost(module, images, bf16=bf16, optimizer=optimizer)
    return MEASURED[key]


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_cost, "forward_cost", forward_once)
        patch.setattr(network_cost, "step_cost", step_once)
        yield
