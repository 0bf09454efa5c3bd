"""What a network costs, without running it: operations, and the memory that is live at once.

The network is run on tensors that have shapes and no numbers, so that neither its weights nor its memory is needed.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import PipelineError

STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """flops: floating-point operations of products and convolutions, a multiplication and an addition counted as two.
    bytes: most that tensors take at once, weights included."""

    flops: int
    bytes: int


class LiveTensors(TorchDispatchMode):
    """While entered, counts the bytes of tensors that are alive; `peak` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's memory, unless another tensor that shares it was counted."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, which: int, size: int) -> None:
        self.seen.discard(which)
        self.live -= size


def forward_cost(module: nn.Module, images: tuple[int, ...], *, bf16: bool) -> Cost:
    """Of features of images (B, 3, H, W), of which only the shape is given, without gradients."""

    def run(network: nn.Module) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network.eval()(torch.empty(images))

    return _cost(module, run)


def step_cost(
    module: nn.Module,
    images: tuple[int, ...],
    *,
    bf16: bool,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> Cost:
    """Of one step of training: forward, backward and the optimiser, whose state is counted; not the loss."""

    def run(network: nn.Module) -> None:
        descent = optimizer(network)
        network.train()
        for _ in range(
            STEPS
        ):  # the second finds the optimiser's state and the first one's gradients, as all others do
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                embedding = network(torch.empty(images))
            descent.zero_grad()
            embedding.float().sum().backward()
            descent.step()

    cost = _cost(module, run)
    return Cost(flops=cost.flops // STEPS, bytes=cost.bytes)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of a network's parameters, which is also what its gradients take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _cost(module: nn.Module, run: Callable[[nn.Module], None]) -> Cost:
    shapes = copy.deepcopy(module).to("meta")
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            LiveTensors() as live,
            FlopCounterMode(display=False) as flops,
        ):
            run(shapes.to_empty(device="cpu"))
    except Exception as error:  # a person's own module may do what needs numbers
        raise PipelineError(
            f"cannot tell what {type(module).__name__} costs: it does not run on shapes alone "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    return Cost(flops=flops.get_total_flops(), bytes=live.peak)
