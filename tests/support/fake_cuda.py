"""A CUDA device without a GPU: tensors that have a device, a shape and a dtype, but no values."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Return a context in which CUDA tensors are fake and an operation on two devices raises.

    Modules are built outside, and moved to CUDA inside.
    """
    monkeypatch.setattr(Tensor, "pin_memory", as_pinned)
    monkeypatch.setattr(Tensor, "backward", backward)
    return FakeTensorMode(allow_non_fake_inputs=True)


def as_pinned(tensor: Tensor) -> Tensor:
    """Mark a tensor as pinned, which a fake one cannot be."""
    tensor.pinned = True  # type: ignore[attr-defined]
    return tensor


def backward(loss: Tensor) -> None:
    """Do what Tensor.backward does, node by node: the engine of autograd needs a GPU for CUDA tensors."""
    assert loss.grad_fn is not None
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    with torch.no_grad():
        for node in reversed(ordered(loss.grad_fn)):
            results = run_node(node, gradients.pop(node, {}))
            for (next_node, index), gradient in zip(node.next_functions, results, strict=False):
                if next_node is not None and gradient is not None:
                    sums = gradients[next_node]
                    sums[index] = sums[index] + gradient if index in sums else gradient


def ordered(root: Any) -> list[Any]:
    """Return the nodes of a graph, each after those that it passes its gradients to."""
    nodes: dict[Any, None] = {}

    def visit(node: Any) -> None:
        for next_node, _ in node.next_functions:
            if next_node is not None and next_node not in nodes:
                visit(next_node)
        nodes[node] = None

    visit(root)
    return list(nodes)


def run_node(node: Any, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Return a node's gradients, given those of its outputs, in the shapes and dtypes that the forward pass had."""
    if not gradients:
        return ()
    arguments: list[Tensor | None] = []
    for index, output in enumerate(node._input_metadata):
        gradient = gradients.get(index)
        if gradient is not None:
            assert gradient.device == output.device, (node, gradient.device, output.device)
            gradient = gradient.sum_to_size(output.shape).to(output.dtype)
        arguments.append(gradient)
    results = node.apply(*arguments) if isinstance(node, BackwardCFunction) else node(*arguments)
    return results if isinstance(results, tuple) else (results,)


class SynchronizingCalls(TorchDispatchMode):
    """Lists the calls for which the CPU would wait for the GPU: values read from it, and blocking copies.

    number: what every value read from a fake tensor is.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.calls = number, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            self.calls.append(str(func))
            if func is aten._local_scalar_dense.default:
                return self.number
        return func(*args, **kwargs)


def waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether a call of an operator waits for the GPU."""
    if func in READS:
        return args[0].device.type != "cpu"
    if func in INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype is torch.bool]
        return args[0].device.type != "cpu" and bool(masks)
    if func is aten._to_copy.default:
        target, asynchronous = kwargs.get("device") or args[0].device, kwargs.get("non_blocking", False)
        return is_blocking(args[0], target, asynchronous)
    if func is aten.copy_.default:
        return is_blocking(args[1], args[0].device, args[2:] == (True,))
    return False


def is_blocking(source: Tensor, target: torch.device, asynchronous: bool) -> bool:
    """Return whether a copy is waited for: a copy between devices, unless it is asynchronous and from pinned memory."""
    return source.device.type != target.type and not (asynchronous and hasattr(source, "pinned"))
