"""How fast a teacher and a student go, as it was told of some machine."""

import math
import os
from dataclasses import dataclass

from pipeline.errors import WrongUse
from pipeline.planning.network_cost import Costs
from pipeline.settings.commands import PlanConfig

RESNET50_STEP_FLOPS = 24.3e9  # an image of 224 px forward and backward, as `cost` counts it


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast it goes. teacher: images/s of its forward pass, over all devices. decode: images/s that are decoded
    for it; inf: left out. step: seconds of a step. loading: seconds that a step's images take to be loaded.
    overlap: whether images are prepared beside the device's work, or by the processor that does that work too.
    """

    teacher: float
    decode: float
    step: float
    loading: float
    overlap: bool
    source: str

    def together(self, work: float, preparation: float) -> float:
        """Seconds of work and of the preparation of its images."""
        return max(work, preparation) if self.overlap else work + preparation


def is_told(config: PlanConfig) -> bool:
    """Whether the config says how fast a device is."""
    return bool(config.rate or config.teacher_rate or config.student_rate)


def given_rates(config: PlanConfig, costs: Costs) -> Rates | None:
    """Rates from what the config says of a device; None if it says nothing. WrongUse for half of it."""
    if not is_told(config):
        if config.decode_rate or config.load_rate:
            raise WrongUse(
                "--decode-rate and --load-rate go with --rate, or --teacher-rate and --student-rate"
            )
        return None
    if not config.rate and not (config.teacher_rate and config.student_rate):
        raise WrongUse("give --rate, or both --teacher-rate and --student-rate")
    flops = config.rate * RESNET50_STEP_FLOPS
    teacher = config.teacher_rate or flops / max(1, costs.teacher.flops / config.teacher_batch_size)
    speed = config.student_rate * costs.step.flops / costs.share if config.student_rate else flops
    cores = config.cores or len(os.sched_getaffinity(0))
    threads = config.workers if config.gpus else cores
    return Rates(
        teacher=teacher * max(1, config.gpus),
        decode=cores * config.decode_rate or math.inf,
        step=(costs.step.flops + costs.key.flops + costs.loss.flops) / speed,
        loading=costs.share / (threads * config.load_rate) if config.load_rate else 0.0,
        overlap=config.gpus > 0,
        source=told(config),
    )


def told(config: PlanConfig) -> str:
    """The rates that were given, in words."""
    parts = {
        "a device trains a ResNet-50 at 224 px with {:,.0f} images/s": config.rate,
        "the teacher's forward pass does {:,.0f} images/s a device": config.teacher_rate,
        "the student's training {:,.0f} images/s a device": config.student_rate,
        "a core decodes {:,.0f} images/s for the teacher": config.decode_rate,
        "a thread decodes {:,.0f} images/s for the student": config.load_rate,
    }
    return "given: " + ", ".join(words.format(value) for words, value in parts.items() if value)
