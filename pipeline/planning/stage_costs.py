"""What a teacher and a student cost: operations and memory of a batch, a step, and the loss."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import nn

from pipeline.errors import WrongUse
from pipeline.models.students import build_student
from pipeline.objectives.registry import anchor_count
from pipeline.objectives.streamed import BLOCK, CONVERTED_BLOCK
from pipeline.planning.inputs import Images
from pipeline.planning.network_cost import Cost, forward_cost, parameter_bytes, step_cost
from pipeline.settings.commands import DistillConfig, PlanConfig
from pipeline.teachers.registry import Backbone, untrained_teacher
from pipeline.training.student_run import build_optimizer


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
