"""Throughput of teacher and student, from rates given on the command line."""

import math
import os
from dataclasses import dataclass

from pipeline.errors import WrongUse
from pipeline.planning.network_cost import NetworkCosts
from pipeline.settings.commands import PlanConfig

RESNET50_STEP_FLOPS = 24.3e9  # one image of 224 px, forward and backward, as network_cost counts


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Throughput of both stages.

    teacher: images/s of the forward pass over all devices. decode: images/s decoded for it; inf to ignore decoding.
    step: seconds per training step. loading: seconds to load a step's images. overlap: True if images are prepared
    while the device computes; False if the same processor does both.
    """

    teacher: float
    decode: float
    step: float
    loading: float
    overlap: bool
    source: str

    def combined(self, compute: float, preparation: float) -> float:
        """Return the seconds of a computation together with the preparation of its images."""
        return max(compute, preparation) if self.overlap else compute + preparation


def has_rates(config: PlanConfig) -> bool:
    """Whether the config gives the speed of a device."""
    return bool(config.rate or config.teacher_rate or config.student_rate)


def given_rates(config: PlanConfig, costs: NetworkCosts) -> Rates | None:
    """Return the rates given by the config, or None if there are none. Raises WrongUse if some are missing."""
    if not has_rates(config):
        if config.decode_rate or config.load_rate:
            raise WrongUse(
                "--decode-rate and --load-rate go with --rate, or --teacher-rate and --student-rate"
            )
        return None
    if not config.rate and not (config.teacher_rate and config.student_rate):
        raise WrongUse("give --rate, or both --teacher-rate and --student-rate")
    flops = (config.rate or 0.0) * RESNET50_STEP_FLOPS
    teacher = config.teacher_rate or flops / max(1, costs.teacher.flops / config.teacher_batch_size)
    speed = config.student_rate * costs.step.flops / costs.share if config.student_rate else flops
    cores = config.cores or len(os.sched_getaffinity(0))
    threads = decoding_threads(config) if config.gpus else cores
    return Rates(
        teacher=teacher * (config.gpus or 1),
        decode=cores * config.decode_rate if config.decode_rate else math.inf,
        step=(costs.step.flops + costs.key.flops + costs.loss.flops) / speed,
        loading=costs.share / (threads * config.load_rate) if config.load_rate else 0.0,
        overlap=bool(config.gpus),
        source=describe_rates(config),
    )


def decoding_threads(config: PlanConfig) -> int:
    """Return the threads that decode for a student on one GPU, or on the CPU: --workers, or `distill`'s default."""
    cores = config.cores or len(os.sched_getaffinity(0))
    return config.workers or max(1, cores // config.gpus if config.gpus else 1)


def describe_rates(config: PlanConfig) -> str:
    """Describe the given rates in a phrase."""
    parts = {
        "{:,.0f} images/s per device training a ResNet-50 at 224 px": config.rate,
        "{:,.0f} images/s per device for the teacher's forward pass": config.teacher_rate,
        "{:,.0f} images/s per device for the student's training": config.student_rate,
        "{:,.0f} images/s per core decoding for the teacher": config.decode_rate,
        "{:,.0f} images/s per thread decoding for the student": config.load_rate,
    }
    return "given: " + ", ".join(text.format(value) for text, value in parts.items() if value)
