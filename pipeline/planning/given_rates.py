"""Throughput of teacher and student, from rates given on the command line."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import WrongUse
from pipeline.planning.assumed_gpu import LAUNCH, AssumedGpu, describe_exchange, exchange_seconds
from pipeline.planning.network_cost import NetworkCosts
from pipeline.planning.network_families import TABLES, describe_speed, relative_speed
from pipeline.settings.plan import PlanConfig

RESNET50_STEP_FLOPS = 24.3e9  # one image of 224 px, forward and backward, as network_cost counts


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Throughput of both stages.

    teacher: images/s of the forward pass over all devices. decode: images/s decoded for it; inf to ignore decoding.
    parts: seconds of each part of a training step, one after the other. launching: seconds in which the CPU starts a
    step's operations, while a GPU computes. loading: seconds to load a step's images. overlap: True if images are
    prepared while the device computes; False if the same processor does both. assumptions: phrases with their sources.
    """

    teacher: float
    decode: float
    parts: Mapping[str, float]
    launching: float = 0.0
    loading: float
    overlap: bool
    source: str
    assumptions: tuple[str, ...] = ()

    @property
    def step(self) -> float:
        """Seconds of a training step, without loading."""
        return max(sum(self.parts.values()), self.launching)

    @property
    def step_bound(self) -> str:
        """What a training step, without loading, waits for most."""
        longest = max(self.parts, key=lambda part: self.parts[part])
        return "starting operations" if self.launching > sum(self.parts.values()) else f"the {longest}"

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
    # the tables of relative speeds are of GPUs
    forward = relative_speed(config.teacher, training=False) if config.gpus else 1.0
    training = relative_speed(config.student, training=True) if config.gpus else 1.0
    student_flops = costs.step.flops / costs.share
    rate = config.rate or (config.student_rate or 0.0) * student_flops / training / RESNET50_STEP_FLOPS
    flops = rate * RESNET50_STEP_FLOPS
    teacher_flops = max(1, costs.teacher.flops / config.teacher_batch_size)
    student = (config.student_rate or flops * training / student_flops) * student_flops
    parts = {"student": (costs.step.flops + costs.key.flops) / student, "loss": costs.loss.flops / flops}
    gpu = AssumedGpu(rate=rate, tf32=config.amp_dtype == "bf16")
    if config.gpus:
        parts["loss"] = gpu.loss_seconds(costs.loss)
    if config.gpus and config.gpus > 1:
        parts["exchange"] = exchange_seconds(config.gpus, costs.parameters, costs.loss)
    launches = costs.step.launches + costs.key.launches + costs.loss.launches
    cores = config.cores or len(os.sched_getaffinity(0))
    threads = decoding_threads(config) if config.gpus else cores
    return Rates(
        teacher=(config.teacher_rate or flops * forward / teacher_flops) * (config.gpus or 1),
        decode=cores * config.decode_rate if config.decode_rate else math.inf,
        parts=parts,
        launching=LAUNCH * launches if config.gpus else 0.0,
        loading=costs.share / (threads * config.load_rate) if config.load_rate else 0.0,
        overlap=bool(config.gpus),
        source=describe_rates(config),
        assumptions=gpu_assumptions(config, gpu) if config.gpus else (),
    )


def gpu_assumptions(config: PlanConfig, gpu: AssumedGpu) -> tuple[str, ...]:
    """Return what a plan for GPUs assumes about them, with the sources."""
    found = [gpu.describe(), f"{LAUNCH * 1e6:.0f} us to start an operation"]
    if config.gpus and config.gpus > 1:
        found.append(describe_exchange(config.gpus))
    if config.rate:
        found.append(
            f"operations a second over a ResNet-50's: {describe_speed(config.teacher, training=False)} forward, "
            f"{describe_speed(config.student, training=True)} in training, from {TABLES}"
        )
    return tuple(found)


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
