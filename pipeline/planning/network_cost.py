"""What a network costs, without running it: operations, and the memory that is live at once.

The network is run on tensors that have shapes and no numbers, so that neither its weights nor its memory is needed.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import PipelineError, WrongUse
from pipeline.models.backbone import Backbone
from pipeline.models.optimizer import build_optimizer
from pipeline.models.students import build_student
from pipeline.objectives.registry import anchor_count
from pipeline.objectives.streamed import BLOCK, CONVERTED_BLOCK
from pipeline.planning.inputs import Images
from pipeline.settings.commands import DistillConfig, PlanConfig
from pipeline.teachers.registry import untrained_teacher

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


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the networks cost. share: images of a step that fall to one device. anchors: K.

    teacher: a forward pass of its batch. step: forward, backward and optimiser on a share, head included. key: the 2q
    key encoder's forward pass. loss: operations and memory of the loss of a share, anchors included.
    parameters: bytes of the student's and its head's.
    """

    share: int
    anchors: int
    student_dim: int
    teacher: Cost
    step: Cost
    key: Cost
    loss: Cost
    parameters: int


def open_teacher(config: PlanConfig) -> Backbone:
    """The teacher that is planned with, without its weights."""
    return untrained_teacher(config.teacher, image_size=config.teacher_size or None)


def network_costs(config: PlanConfig, images: Images, teacher: Backbone) -> Costs:
    """What teacher and student cost. WrongUse for a batch that the GPUs cannot share, or too many anchors."""
    devices = max(1, config.gpus)
    if config.batch_size % devices:
        raise WrongUse(
            f"--batch-size {config.batch_size} cannot be shared by {devices} GPUs: give a multiple of it"
        )
    share, anchors = config.batch_size // devices, anchor_count(config.anchors, images.train)
    student = build_student(config.student, image_size=config.image_size, seed=0)
    network, width = nn.Sequential(student, head(config, student.dim, teacher.dim)), student.dim
    shape, bf16 = (share, 3, config.image_size, config.image_size), config.amp_dtype == "bf16"
    settings = DistillConfig(dataset=Path(), cache=Path(), run=Path(), optimizer=config.optimizer)
    forward = forward_cost(network, shape, bf16=bf16)
    has_keys = config.objective == "2q"
    example = teacher_shape(teacher, config.teacher_batch_size)
    return Costs(
        share=share,
        anchors=anchors,
        student_dim=width,
        teacher=forward_cost(teacher.module, example, bf16=config.teacher_amp_dtype == "bf16"),
        step=step_cost(network, shape, bf16=bf16, optimizer=lambda module: build_optimizer(settings, module)),
        key=Cost(flops=forward.flops, bytes=parameter_bytes(network)) if has_keys else Cost(flops=0, bytes=0),
        parameters=parameter_bytes(network),
        loss=loss_cost(config, share, anchors, images.train, config.head_dim or width, teacher.dim),
    )


def head(config: PlanConfig, student_dim: int, teacher_dim: int) -> nn.Module:
    """The objective's head on the student."""
    if config.objective == "1q":
        return nn.Linear(student_dim, teacher_dim)
    return nn.Linear(student_dim, config.head_dim) if config.head_dim else nn.Identity()


def teacher_shape(teacher: Backbone, batch: int) -> tuple[int, int, int, int]:
    """Shape of a batch of the teacher's input."""
    channels, height, width = teacher.preprocessing.transform(Image.new("RGB", (256, 256))).shape
    return batch, channels, height, width


def loss_cost(
    config: PlanConfig, share: int, anchors: int, rows: int, student_dim: int, teacher_dim: int
) -> Cost:
    """The streamed loss: two products of both queries with the anchors; its anchors, its slots, and its buffers."""
    # anchors are converted to float32 a block at a time, and scored twice at most in memory
    block = min(BLOCK if config.gpus else CONVERTED_BLOCK, anchors)
    slots = 8 * anchors + 4 * (rows + 1)
    if config.objective == "1q":
        flops, ring = 8 * share * anchors * teacher_dim, 2 * anchors * teacher_dim
        buffers = 4 * (block * teacher_dim + 2 * share * block + 2 * share * teacher_dim)
    else:
        flops = 2 * share * anchors * (teacher_dim + 3 * student_dim)
        ring = anchors * (2 * teacher_dim + 4 * student_dim)
        buffers = 4 * (block * teacher_dim + 2 * share * block + 2 * share * student_dim)
    return Cost(flops=flops, bytes=ring + slots + buffers)
