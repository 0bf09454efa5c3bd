"""FLOPs and peak memory of networks and of the loss, without running them.

Networks run on fake tensors, which have shapes but no data, so neither weights nor memory are needed.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import PipelineError, WrongUse, first_line
from pipeline.models.backbone import Backbone
from pipeline.models.optimizer import build_optimizer
from pipeline.models.students import build_student
from pipeline.objectives.builders import anchor_count
from pipeline.planning.inputs import Images
from pipeline.planning.loss_cost import LossCost, loss_cost
from pipeline.settings.plan import PlanConfig
from pipeline.settings.training import DistillConfig
from pipeline.teachers.registry import untrained_teacher

STEPS = 2  # from the second step on, gradients and the optimizer's state exist
# A backward pass starts two operations for each of the forward pass; a GPU's optimizer is one.
STEP_LAUNCHES = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a computation.

    flops: floating-point operations of matrix products and convolutions; a multiply-add counts as two.
    bytes: peak memory of all tensors, weights included. launches: operations that a GPU is told to start.
    """

    flops: int
    bytes: int
    launches: int


NO_COST = Cost(flops=0, bytes=0, launches=0)


@dataclass(frozen=True, kw_only=True)
class NetworkCosts:
    """Costs of both stages' networks on one device.

    share: images per step and device. anchors: held by a device, K divided by their number. teacher: a forward pass of
    one teacher batch. step: forward, backward and optimizer of student and head on one share. key: a forward pass of
    2q's key encoder. loss: the loss of a step, with the anchors' memory. parameters: bytes of the parameters of student
    and head.
    """

    share: int
    anchors: int
    student_dim: int
    teacher: Cost
    step: Cost
    key: Cost
    loss: LossCost
    parameters: int


def network_costs(config: PlanConfig, images: Images, teacher: Backbone) -> NetworkCosts:
    """Compute the costs of teacher and student.

    Raises WrongUse for a batch size that is no multiple of the number of GPUs, or more anchors than images.
    """
    devices = config.gpus or 1
    if config.batch_size % devices:
        raise WrongUse(
            f"--batch-size {config.batch_size} cannot be shared by {devices} GPUs: give a multiple of {devices}"
        )
    share = config.batch_size // devices
    student = build_student(config.student, image_size=config.image_size, seed=0)
    network, dim = nn.Sequential(student, build_head(config, student.dim, teacher.dim)), student.dim
    shape, bf16 = (share, 3, config.image_size, config.image_size), config.amp_dtype == "bf16"
    settings = DistillConfig(dataset=Path(), cache=Path(), run=Path(), optimizer=config.optimizer, wd=1e-4)
    forward = forward_cost(network, shape, bf16=bf16)
    step = step_cost(network, shape, bf16=bf16, optimizer=lambda module: build_optimizer(settings, module))
    has_keys = config.objective == "2q"
    teacher_input = teacher_shape(teacher, config.teacher_batch_size)
    return NetworkCosts(
        share=share,
        anchors=-(-anchor_count(config.anchors, images.train) // devices),
        student_dim=dim,
        teacher=forward_cost(teacher.module, teacher_input, bf16=config.teacher_amp_dtype == "bf16"),
        step=replace(step, launches=STEP_LAUNCHES * forward.launches),
        key=replace(forward, bytes=parameter_bytes(network)) if has_keys else NO_COST,
        parameters=parameter_bytes(network),
        loss=loss_cost(config, images.train, config.head_dim or dim, teacher.dim),
    )


def planned_teacher(config: PlanConfig) -> Backbone:
    """Return the plan's teacher, without weights."""
    return untrained_teacher(config.teacher, image_size=config.teacher_size)


def build_head(config: PlanConfig, student_dim: int, teacher_dim: int) -> nn.Module:
    """Return the objective's head on the student."""
    if config.objective == "1q":
        return nn.Linear(student_dim, teacher_dim)
    return nn.Linear(student_dim, config.head_dim) if config.head_dim else nn.Identity()


def teacher_shape(teacher: Backbone, batch: int) -> tuple[int, int, int, int]:
    """Return the shape of a batch of the teacher's input."""
    channels, height, width = teacher.preprocessing.transform(Image.new("RGB", (256, 256))).shape
    return batch, channels, height, width


def forward_cost(module: nn.Module, images: tuple[int, ...], *, bf16: bool) -> Cost:
    """Return the cost of a forward pass without gradients. images: the input's shape (B, 3, H, W)."""

    def run(network: nn.Module) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network.eval()(torch.empty(images))

    return _measure(module, run)


def step_cost(
    module: nn.Module,
    images: tuple[int, ...],
    *,
    bf16: bool,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> Cost:
    """Return the cost of a training step: forward, backward and optimizer with its state, without the loss."""

    def run(network: nn.Module) -> None:
        steps = optimizer(network)
        network.train()
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                embedding = network(torch.empty(images))
            steps.zero_grad()
            embedding.float().sum().backward()
            steps.step()

    cost = _measure(module, run)
    return replace(cost, flops=cost.flops // STEPS)


def parameter_bytes(module: nn.Module) -> int:
    """Return the bytes of a network's parameters, and equally of its gradients."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _measure(module: nn.Module, run: Callable[[nn.Module], None]) -> Cost:
    """Run a copy of the network on fake tensors. Raises PipelineError for a network that needs real data."""
    shapes = copy.deepcopy(module).to("meta")
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            LiveTensors() as live,
            FlopCounterMode(display=False) as flops,
        ):
            run(shapes.to_empty(device="cpu"))
    except Exception as error:  # a user's own module may branch on data, and raise anything
        raise PipelineError(
            f"cannot measure the cost of {type(module).__name__}: it does not run on fake tensors "
            f"({type(error).__name__}: {first_line(error)}); plan with a similar network of the registry"
        ) from error
    return Cost(flops=flops.get_total_flops(), bytes=live.peak, launches=live.launches)


class LiveTensors(TorchDispatchMode):
    """A context in which the bytes of live tensors are counted, and operations that compute something.

    peak: the maximum of the bytes. launches: the number of operations, views and allocations excluded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.launches = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.launches += func.namespace == "aten" and not func.is_view and "empty" not in func.name()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's memory, unless a tensor with the same storage is already counted."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, which: int, size: int) -> None:
        self.seen.discard(which)
        self.live -= size
